"""Extremes: the ends of what is seen, 0 among it, on all devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.axis import AXIS
from jaxmini.compress.quantize.extremes import begun, ends_of, extremes, union

NUMBERS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(NUMBERS, min_size=6, max_size=6))
def test_both_ends_are_the_numbers_own_and_hold_zero(numbers):
    found = extremes(jnp.asarray(np.reshape(np.float32(numbers), (2, 3))))
    assert found["low"] == min(0, *np.float32(numbers))
    assert found["high"] == max(0, *np.float32(numbers))
    # Zero points are computed of it; a zero has no sign.
    assert not np.signbit(found["low"]) or found["low"] < 0
    assert all(end.dtype == jnp.float32 and end.shape == () for end in found.values())


def test_it_has_no_gradient():
    def width(x):
        found = extremes(x)
        return found["high"] - found["low"]

    np.testing.assert_array_equal(jax.grad(width)(jnp.float32([3, -2])), [0, 0])


def test_a_number_that_is_none_stays_visible():
    found = extremes(jnp.float32([1, np.nan]))
    assert np.isnan(found["low"])
    assert np.isnan(found["high"])


def test_all_devices_see_the_ends_of_all():
    x = jnp.float32([[1, 2], [-3, 0.5], [7, 1]])
    found = jax.pmap(extremes, AXIS, devices=jax.devices()[:3])(x)
    np.testing.assert_array_equal(found["low"], [-3, -3, -3])
    np.testing.assert_array_equal(found["high"], [7, 7, 7])


@given(*(st.tuples(NUMBERS, NUMBERS).map(sorted) for _ in range(2)))
def test_a_union_holds_both_and_no_more(first, second):
    joined = union(*({"low": np.float32(a), "high": np.float32(b)} for a, b in (first, second)))
    assert (joined["low"], joined["high"]) == (min(first[0], second[0]), max(first[1], second[1]))


def test_a_range_that_has_seen_nothing_adds_nothing():
    empty = {"low": jnp.float32(np.inf), "high": jnp.float32(-np.inf)}
    known = {"low": jnp.float32(-1), "high": jnp.float32(2)}
    assert union(empty, known) == union(known, empty) == known


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [
        (0, 0, (0, 1)),
        (0, 1e-12, (0, 1)),
        (-1e-12, 0, (0, 1)),
        (-1e-3, 0, (-1e-3, 0)),
        (np.inf, -np.inf, (np.inf, -np.inf)),
        (np.nan, np.nan, (np.nan, np.nan)),
    ],
)
def test_a_grid_starts_from_one_where_only_zeros_were_seen(low, high, ends):
    found = begun({"low": jnp.float32(low), "high": jnp.float32(high)})
    np.testing.assert_array_equal([found["low"], found["high"]], np.float32(ends))


class Sums(NamedTuple):
    count: int
    low: float
    high: float


@pytest.mark.parametrize("statistics", [{"low": -1, "high": 2}, Sums(9, -1, 2)])
def test_ends_are_those_of_a_range_or_of_statistics(statistics):
    assert ends_of(statistics) == (-1, 2)
