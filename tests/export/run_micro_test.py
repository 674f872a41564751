"""The search for the least arena, without an interpreter: any size that suffices is found from below."""

import contextlib
import io
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.export import run_micro

STEP = 16


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_the_least_that_suffices_is_found(low: int, more: int, spare: int):
    needed, tried = (low + more) * STEP, []

    def survives(content: bytes, arena: int) -> bool:
        assert content == b"file"
        tried.append(arena)
        return arena >= needed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_micro, "_survives", survives)
        imported = types.SimpleNamespace(import_module=lambda name: None)
        patched.setattr(run_micro, "importlib", imported)
        high, said = needed + spare * STEP, io.StringIO()
        with contextlib.redirect_stdout(said):
            run_micro._smallest(b"file", str(low * STEP), str(high), str(STEP))
    assert said.getvalue() == f"{needed}\n"
    assert all(arena % STEP == 0 and low * STEP <= arena < high for arena in tried)
    assert len(tried) <= 2 * (more + spare + 1).bit_length() + 2
