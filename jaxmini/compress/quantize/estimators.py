"""Estimators: from the numbers that a site shows in calibration to the range its grid will span.

An estimator gathers statistics, compiled, one tensor at a time, and settles them once, in float64 NumPy.
Those that clip leave numbers outside on purpose: a finer step for the many, saturation for the few.
"""

import dataclasses
import functools
from typing import Any, TypeAlias

import numpy as np

from jaxmini.compress.quantize.extremes import Range, extremes, union
from jaxmini.compress.quantize.grid import BITS, ends
from jaxmini.compress.quantize.histogram import Histogram, Side, histogram, merged
from jaxmini.state import Array

Statistics: TypeAlias = Any

CANDIDATES = 256  # clips that a search tries on a side of 0


class Estimator:
    """What calibration asks of a range. Subclasses are frozen dataclasses."""

    # Whether numbers outside the range are meant to be there. What one batch of training shows cannot tell
    # such a range from a narrow one, so training leaves it as it was calibrated.
    clips = False

    def observe(self, values: Array) -> Statistics:
        """The statistics of a tensor of any shape; traced."""
        return extremes(values)

    def join(self, first: Statistics, second: Statistics) -> Statistics:
        """The statistics of two tensors of one batch, which share a grid."""
        return union(first, second)

    def follow(self, before: Statistics, batch: Statistics) -> Statistics:
        """The statistics after one more batch."""
        return self.join(before, batch)

    def settle(self, statistics: Statistics, bits: int = BITS) -> tuple[float, float]:
        """The range ``low <= 0 <= high`` of a grid of so many bits."""
        return statistics["low"], statistics["high"]


class _Clipping(Estimator):
    clips = True

    def observe(self, values: Array) -> Histogram:
        return histogram(values)

    def join(self, first: Histogram, second: Histogram) -> Histogram:
        return merged(first, second)


@dataclasses.dataclass(frozen=True)
class min_max(Estimator):
    """From the least to the greatest number of all batches: nothing is clipped."""


@dataclasses.dataclass(frozen=True)
class moving_average(Estimator):
    """The extremes of each batch, averaged as training does it: ``m * before + (1 - m) * batch``.

    Attributes:
        momentum: 0..1, exclusive; the first batch is taken whole (Jacob et al., 2018, section 3.1).
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.momentum < 1:
            raise ValueError(f"moving_average: momentum is {self.momentum}, expected 0 < m < 1")

    def follow(self, before: Range, batch: Range) -> Range:
        return {
            end: self.momentum * np.float64(before[end])
            + (1 - self.momentum) * np.float64(batch[end])
            for end in before
        }


@dataclasses.dataclass(frozen=True)
class percentile(_Clipping):
    """The range that at most ``100 - p`` percent of the numbers exceed at either end, 0 included.

    Ends are right within one bin, at most 1/2048 of the largest magnitude.

    Attributes:
        p: above 50, at most 100 (which is ``min_max``).
    """

    p: float

    def __post_init__(self) -> None:
        if not 50 < self.p <= 100:
            raise ValueError(f"percentile: p is {self.p}, expected 50 < p <= 100")

    def settle(self, statistics: Histogram, bits: int = BITS) -> tuple[float, float]:
        # 99.9 of 23,000 numbers leaves 23, and not the 22.99999 of floating point.
        beyond = round((100 - self.p) / 100 * statistics.total, 6)
        below, above = (_exceeded_by(side, beyond) for side in statistics.sides())
        return 0.0 - below, above


@dataclasses.dataclass(frozen=True)
class mse(_Clipping):
    """The range of the least mean squared error of rounding to the grid's bits, clipping included.

    Numbers outside lose their distance to the end, numbers inside step**2 / 12, zeros nothing
    (Banner et al., 2019, on the histogram in place of a fitted density). Each end is searched at 256
    places.
    """

    def settle(self, statistics: Histogram, bits: int = BITS) -> tuple[float, float]:
        (low, low_lost, low_kept), (high, high_lost, high_kept) = map(_clips, statistics.sides())
        steps = np.add.outer(low, high) / (_levels(bits) - 1)
        errors = np.add.outer(low_lost, high_lost) + np.add.outer(low_kept, high_kept) * (
            steps**2 / 12
        )
        i, j = np.unravel_index(np.argmin(errors), errors.shape)
        return 0.0 - low[i], high[j]


@dataclasses.dataclass(frozen=True)
class entropy(_Clipping):
    """The threshold on magnitudes whose levels (256 of 8 bits) keep the distribution best, by KL divergence.

    Both ends are held to one threshold, and to the extremes. Zeros are left out, as they are exact
    (Migacz, 8-bit Inference with TensorRT, 2017); 256 thresholds are tried.
    """

    def settle(self, statistics: Histogram, bits: int = BITS) -> tuple[float, float]:
        below, above = statistics.sides()
        used, levels = max(below.used, above.used), _levels(bits)
        if used == 0:
            return 0.0, 0.0
        edges = np.unique(np.linspace(min(levels, used), used, CANDIDATES).round().astype(int))
        # Widest first: where two are as good, nothing more is clipped than has to be.
        best = min(edges[::-1], key=functools.partial(_divergence, below, above, levels))
        return 0.0 - float(below.at(best)), float(above.at(best))


def _levels(bits: int) -> int:
    """How many numbers a grid has."""
    low, high = ends(bits)
    return high - low + 1


def _exceeded_by(side: Side, allowed: float) -> float:
    """The least magnitude that ``allowed`` numbers of a side exceed, evenly spread within a bin."""
    beyond = np.append(np.cumsum(side.counts[::-1])[::-1], 0)
    edge = int(np.argmax(beyond <= allowed))
    if edge == 0:
        return 0.0
    inner, outer = beyond[edge - 1], beyond[edge]
    return float(side.at(edge - 1 + (inner - allowed) / (inner - outer)))


def _clips(side: Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends to choose from, widest first; the squared error of what each clips; how many it keeps."""
    edges = np.unique(np.linspace(0, side.used, CANDIDATES + 1).round().astype(int))[::-1]
    ends, centres = side.at(edges), (np.arange(len(side.counts)) + 0.5) * side.width
    beyond = [
        np.append(np.cumsum((side.counts * power)[::-1])[::-1], 0)[edges]
        for power in (1, centres, centres**2)
    ]
    lost = beyond[2] - 2 * ends * beyond[1] + ends**2 * beyond[0]
    return ends, lost, side.counts.sum() - beyond[0]


def _divergence(below: Side, above: Side, count: int, edge: int) -> float:
    """KL divergence of the numbers clipped at an edge from the same in so many levels."""
    clipped = [side.counts[: min(edge, side.used)].astype(np.float64) for side in (below, above)]
    kept = np.concatenate([clipped[0][::-1], clipped[1]])
    for counts, side in zip(clipped, (below, above), strict=True):
        if len(counts):
            counts[-1] += side.counts[edge:].sum()
    wanted = np.concatenate([clipped[0][::-1], clipped[1]])
    levels = np.arange(len(kept)) * count // max(len(kept), count)
    mass, bins = np.bincount(levels, kept), np.bincount(levels, wanted > 0)
    present = wanted > 0
    given = (mass / np.maximum(bins, 1))[levels[present]]
    if not np.all(given > 0):
        return np.inf  # a level that would hold clipped numbers alone
    wanted, given = wanted[present] / wanted.sum(), given / kept.sum()
    return float(np.sum(wanted * np.log(wanted / given)))
