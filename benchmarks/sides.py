"""Sides: what is compared on a CPU, XLA's convolutions, jaxmini's and PyTorch's, and how it is timed.

XLA and jaxmini are one program, compiled without and with ``jaxmini.cpu.install()``.
"""

import functools
import importlib.util
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

import jax

from benchmarks import page, pairs
from jaxmini import cpu
from jaxmini.run.report.quantity import MISSING

XLA, JAXMINI, PYTORCH = "XLA", "jaxmini", "PyTorch"
TORCH_VERSION = "2.13.0"

Way = Callable[[], object]


def prepare() -> None:
    """Keep freed memory and compile anew, on the CPU: before the first computation of any side."""
    cpu.keep_freed_memory()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is measured


def add_arguments(parser: page.argparse.ArgumentParser) -> None:
    """What is measured, and how often."""
    parser.add_argument("--rounds", type=int, default=9, help="turns each way has (default: 9)")
    parser.add_argument("--only", default="", help="what has this in its name")


def switch(rule: bool, report: Callable[[cpu.Lowered], None] | None = None) -> None:
    """What is compiled from now on has jaxmini's convolutions, or XLA's.

    Raises:
        RuntimeError: this version of jax does not take the rule.
    """
    jax.clear_caches()
    with warnings.catch_warnings():
        # Programs that are compiled already keep what they have: here they are the other side.
        warnings.filterwarnings("ignore", r"jaxmini\.cpu\.\w+: \d+ programs", RuntimeWarning)
        if not rule:
            cpu.uninstall()
        elif not cpu.install(report):
            raise RuntimeError("jaxmini.cpu.install did nothing: there are no two ways to compare")


def pytorch():
    """``benchmarks.torch_nets``; None where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    # Read when it is loaded: its threads sleep while they wait, and do not spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from benchmarks import torch_nets

    return torch_nets


def absent() -> tuple[str, ...]:
    """A finding for what could not be measured."""
    if pytorch() is not None:
        return ()
    return (f"PyTorch is not installed; `pip install torch=={TORCH_VERSION}` fills its columns.",)


def timed(ways: Mapping[str, Way], rounds: int, *, least: float) -> dict[str, pairs.Timing]:
    """Seconds a call, by turns that are of as many calls as last ``least`` seconds together."""
    counts = {name: _count(way, least) for name, way in ways.items()}
    turns = {name: functools.partial(pairs.repeat, way, counts[name]) for name, way in ways.items()}
    return {
        name: pairs.Timing(*(tuple(s / counts[name] for s in side) for side in (t.cpu, t.wall)))
        for name, t in pairs.alternate(turns, rounds=rounds).items()
    }


def fastest(
    timings: Mapping[str, pairs.Timing], names: Sequence[str], side: str = "cpu"
) -> str | None:
    """Which of these has the lowest median, of CPU or of wall; None where there are none."""
    medians = {name: statistics.median(getattr(timings[name], side)) for name in names}
    return min(medians, key=medians.get, default=None)


def compared(
    timings: Mapping[str, pairs.Timing], of: str, to: str | None, side: str = "cpu"
) -> pairs.Ratio | None:
    """One way's seconds over another's; None where there is no other."""
    return None if to is None else pairs.ratio(*(getattr(timings[name], side) for name in (of, to)))


def cell(ratio: pairs.Ratio | None) -> str:
    """A ratio's median, for a table."""
    return MISSING if ratio is None else f"{ratio.median:.3f}"


def _count(way: Way, least: float) -> int:
    """How many calls last that long; after one to warm up."""
    jax.block_until_ready(way())
    began = time.perf_counter()
    jax.block_until_ready(way())
    return max(1, round(least / (time.perf_counter() - began)))
