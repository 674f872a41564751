"""A histogram of many batches is that of all numbers at once, however cut, whatever their size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxmini.compress.quantize.histogram import SIDE, Histogram, histogram, merged

count = jax.jit(histogram)


def reference(values, exponent):
    """Counts by NumPy, of numbers in float64."""
    values = np.asarray(values, np.float64).ravel()
    edges = np.arange(-SIDE, SIDE + 1) * np.ldexp(1.0 / SIDE, exponent)
    return np.histogram(values[values != 0], edges)[0]


@pytest.mark.parametrize("scale", [1e-29, 1e-6, 1.0, 3e8, 5e37])
def test_counts_are_those_of_numpy(scale):
    values = np.random.default_rng(0).normal(size=3000).astype(np.float32) * np.float32(scale)
    values[::5] = 0
    known = count(values)
    np.testing.assert_array_equal(known.counts, reference(values, int(known.exponent)))
    assert known.low == values.min()
    assert known.high == values.max()
    assert known.zeros == 600
    assert known.total == values.size
    # The resolution that estimators promise: the largest magnitude fills half of its side at least.
    assert known.width <= np.abs(values).max() / (SIDE // 2)


def test_edges_belong_to_the_bin_above():
    known = count(np.float32([0.5, -0.5, 0.75, 1 - 2**-13, -1]))
    filled = np.flatnonzero(known.counts) - SIDE
    assert known.width == 2 / SIDE
    np.testing.assert_array_equal(
        np.array([-1, -0.5, 0.5, 0.75, 1 - 2 / SIDE]) / known.width, filled
    )


@example(0, [-3.0])  # zeros, which ask for no width, before small numbers
@given(st.integers(0, 1000), st.lists(st.floats(-30, 30), min_size=1, max_size=5))
def test_batches_add_up(seed, magnitudes):
    rng = np.random.default_rng(seed)
    batches = [(rng.normal(size=64) * 2.0**m).astype(np.float32) for m in magnitudes]
    batches.insert(seed % len(batches), np.zeros(64, np.float32))
    together = count(np.concatenate(batches))
    for order in (batches, batches[::-1]):
        apart = functools.reduce(merged, map(count, order))
        np.testing.assert_array_equal(apart.counts, together.counts)
        assert (apart.low, apart.high) == (together.low, together.high)
        assert (apart.zeros, apart.exponent) == (together.zeros, together.exponent)


def test_counts_do_not_overflow():
    many = Histogram(np.float32(0), np.float32(1), np.full(2 * SIDE, 2**31 - 1, np.int32), 1, 0)
    assert merged(merged(many, many), many).total == 3 * 2 * SIDE * (2**31 - 1)


def test_sides_are_magnitudes():
    below, above = count(np.float32([-3, -1, 0, 0, 2])).sides()
    assert (below.largest, above.largest) == (3, 2)
    assert (below.counts.sum(), above.counts.sum()) == (2, 1)
    assert below.at(below.used) == 3
    assert above.at(above.used) == 2
    assert count(np.zeros(4, np.float32)).sides()[1].used == 0


def test_it_has_no_gradient_and_a_batch_axis():
    values = jnp.linspace(-1, 1, 12).reshape(3, 4)
    rows = jax.vmap(histogram)(values)
    for row, value in enumerate(values):
        np.testing.assert_array_equal(rows.counts[row], count(value).counts)
    slope = jax.grad(lambda v: histogram(v).high)(values)
    assert not np.any(slope)
