"""The rule in place for a test, and gone after it."""

import contextlib
import warnings
from collections.abc import Iterator

import jax

from jaxmini import cpu


@contextlib.contextmanager
def rule() -> Iterator[list[cpu.Lowered]]:
    """Programs compiled within get the rule, those after do not; what was lowered within."""
    lowered: list[cpu.Lowered] = []
    jax.clear_caches()
    with _of_other_tests():
        assert cpu.install(lowered.append)
    try:
        yield lowered
    finally:
        with _of_other_tests():
            cpu.uninstall()
        jax.clear_caches()


@contextlib.contextmanager
def _of_other_tests() -> Iterator[None]:
    """Programs of tests before may still be alive; they stay as they are, as they should."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "jaxmini.cpu.*programs with convolutions", RuntimeWarning)
        yield
