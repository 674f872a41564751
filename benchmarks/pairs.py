"""Pairs: two or more ways of doing one thing, timed by turns and compared round for round.

The load of a machine comes and goes; ways that take turns share it, and CPU time leaves most of it out.
"""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from jaxmini.run.report.quantity import MISSING, milliseconds
from jaxmini.run.report.table import Column, Row

COLUMNS = (
    Column("what"),
    Column("how"),
    Column("CPU", is_quantity=True),
    Column("wall", is_quantity=True),
    Column("CPU, ratio", is_quantity=True),
    Column("middle half", is_quantity=True),
    Column("wall, ratio", is_quantity=True),
)


class Elsewhere(NamedTuple):
    """Seconds of CPU and of wall that a call took in another process; what returns them is timed by them."""

    cpu: float
    wall: float


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds a call of one way took: CPU (all threads of the process) and wall, one each a round."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as long a way takes as another, round for round: what the machine does meanwhile is
    in both.

    Attributes:
        median: of the rounds' ratios.
        low, high: their quartiles: what the machine adds to the median.
    """

    median: float
    low: float
    high: float


def alternate(
    ways: Mapping[str, Callable[[], object]], *, rounds: int = 15, calls: int = 1, warmup: int = 1
) -> dict[str, Timing]:
    """Time the ways by turns, A B B A, each turn ``calls`` calls up to the last one's result.

    Args:
        ways: by name, what is timed; a result may hold arrays that are still being computed, or be
            ``Elsewhere``.
        rounds: turns each way has, at least 2.
        calls: of a turn; take as many as make a turn long against the clock.
        warmup: turns before the first that counts (compilation, caches).

    Raises:
        ValueError: fewer than two rounds, or no call in a turn.
    """
    if rounds < 2 or calls < 1:
        raise ValueError(f"alternate: rounds={rounds}, calls={calls}; expected 2 and 1 at least")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(warmup + rounds):
        # Back and forth: a way that leaves the caches, or the clock, in a bad state harms all others alike.
        for name, way in list(ways.items())[:: -1 if turn % 2 else 1]:
            taken = _turn(way, calls)
            if turn >= warmup:
                seconds[name].append(taken)
    return {name: Timing(*zip(*taken, strict=True)) for name, taken in seconds.items()}


def repeat(way: Callable[[], object], calls: int) -> object:
    """That many calls; the last one's result, or all that they took elsewhere."""
    result = way()
    for _ in range(calls - 1):
        again = way()
        if isinstance(result, Elsewhere):
            again = Elsewhere(result.cpu + again.cpu, result.wall + again.wall)
        result = again
    return result


def ratio(of: Sequence[float], to: Sequence[float]) -> Ratio:
    """The ratio of two ways' seconds, round for round."""
    rounds = [a / b for a, b in zip(of, to, strict=True)]
    low, median, high = statistics.quantiles(rounds, n=4, method="inclusive")
    return Ratio(median, low, high)


def rows(what: str, timings: Mapping[str, Timing]) -> tuple[Row, ...]:
    """The cells of ``COLUMNS``: a row a way, the ratios to the first of them."""
    first, *_ = timings.values()
    return tuple(
        (
            what,
            how,
            milliseconds(1e3 * statistics.median(timing.cpu)),
            milliseconds(1e3 * statistics.median(timing.wall)),
            *((MISSING,) * 3 if timing is first else _ratios(timing, first)),
        )
        for how, timing in timings.items()
    )


def _turn(way: Callable[[], object], calls: int) -> tuple[float, float]:
    """Seconds of CPU and of wall a call."""
    gc.collect()
    gc.disable()
    try:
        cpu, wall = time.process_time(), time.perf_counter()
        result = repeat(way, calls)
        jax.block_until_ready(result)
        if isinstance(result, Elsewhere):
            return result.cpu / calls, result.wall / calls
        return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls
    finally:
        gc.enable()


def _ratios(timing: Timing, first: Timing) -> Row:
    cpu, wall = ratio(timing.cpu, first.cpu), ratio(timing.wall, first.wall)
    return f"{cpu.median:.3f}", f"{cpu.low:.3f} to {cpu.high:.3f}", f"{wall.median:.3f}"
