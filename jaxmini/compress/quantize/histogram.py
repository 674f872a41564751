"""Histogram: how often numbers of every size occur at a site, in a fixed number of bins that grow.

A bin's width is a power of two and 0 is an edge, so growing joins neighbours and nothing is redistributed:
the histogram of many batches does not depend on how they were cut. Zeros are counted apart: they are exact
on any grid, and after a rectifier they are half of all numbers.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize.extremes import extremes
from jaxmini.state import Array

SIDE = 4096  # bins on each side of 0; the largest magnitude seen lies in the upper half of its side
SMALLEST_EXPONENT = -100  # smaller numbers are all one bin: a float32 step would be subnormal


class Histogram(NamedTuple):
    """Counts of the numbers of a site.

    Attributes:
        low, high: the least and greatest, 0 included, float32 [].
        counts: of the numbers in ``[(i - SIDE) * width, (i - SIDE + 1) * width)``, integer [2 * SIDE];
            zeros left out.
        exponent: ``width`` is ``2**exponent / SIDE``, integer [].
        zeros: count of numbers that are 0, integer [].
    """

    low: Array
    high: Array
    counts: Array
    exponent: Array
    zeros: Array

    @property
    def width(self) -> float:
        """Of a bin."""
        return float(np.ldexp(1.0 / SIDE, int(self.exponent)))

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return int(np.sum(self.counts)) + int(self.zeros)

    def sides(self) -> tuple["Side", "Side"]:
        """The numbers below 0 by their magnitude, and those above 0."""
        counts = np.asarray(self.counts, np.int64)
        below = Side(counts[:SIDE][::-1], self.width, -float(self.low))
        return below, Side(counts[SIDE:], self.width, float(self.high))


class Side(NamedTuple):
    """The magnitudes of the numbers on one side of 0, which is the inner edge of the first bin.

    Attributes:
        counts: int64 [SIDE].
        width: of a bin.
        largest: the largest magnitude, 0 where there is none.
    """

    counts: np.ndarray
    width: float
    largest: float

    @property
    def used(self) -> int:
        """The number of bins up to the last that holds something."""
        return int(np.max(np.flatnonzero(self.counts), initial=-1)) + 1

    def at(self, edge: np.ndarray | int) -> np.ndarray:
        """The magnitude of an edge, that of the last one used being the largest that was seen."""
        return np.minimum(np.asarray(edge) * self.width, self.largest)


def histogram(values: Array) -> Histogram:
    """The histogram of an array; pure, and made to be compiled. Counts are int32. It has no gradient."""
    values = lax.stop_gradient(values).ravel()
    known = extremes(values)
    largest = jnp.maximum(-known["low"], known["high"])
    # Zeros alone ask for no width: a batch of them must not coarsen what it is merged with.
    exponent = jnp.where(largest > 0, jnp.frexp(largest)[1], SMALLEST_EXPONENT)
    exponent = jnp.maximum(exponent, SMALLEST_EXPONENT)
    steps = jnp.floor(jnp.ldexp(values, SIDE.bit_length() - 1 - exponent)).astype(jnp.int32)
    present = values != 0
    counts = jnp.zeros(2 * SIDE, jnp.int32).at[steps + SIDE].add(present.astype(jnp.int32))
    zeros = jnp.sum(~present, dtype=jnp.int32)
    return Histogram(known["low"], known["high"], counts, exponent, zeros)


def merged(first: Histogram, second: Histogram) -> Histogram:
    """The histogram of the numbers of both, in NumPy; counts are int64."""
    exponent = max(int(first.exponent), int(second.exponent))
    return Histogram(
        np.minimum(first.low, second.low),
        np.maximum(first.high, second.high),
        _coarser(first, exponent) + _coarser(second, exponent),
        np.int64(exponent),
        np.int64(first.zeros) + np.int64(second.zeros),
    )


def _coarser(known: Histogram, exponent: int) -> np.ndarray:
    """The counts in bins that are as wide as those of ``exponent``, at least their own."""
    joined = (np.arange(2 * SIDE) - SIDE) >> min(exponent - int(known.exponent), 62)
    counts = np.zeros(2 * SIDE, np.int64)
    np.add.at(counts, joined + SIDE, np.asarray(known.counts, np.int64))
    return counts
