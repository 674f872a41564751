"""Grids hold 0, rounding is what an integer file does, gradients pass where they should."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize.grid import (
    Grid,
    covering,
    dequantized,
    fake_quant,
    fake_quant_average,
    quantized,
    straight_through,
    symmetric,
)

ends = st.floats(0, 1e4, width=32)


@given(ends, ends)
def test_a_grid_spans_its_range_and_holds_zero(low, high):
    grid = covering(jnp.float32(-low), jnp.float32(high))
    scale, zero_point = float(grid.scale), int(grid.zero_point)
    assert scale > 0
    assert -128 <= zero_point <= 127
    assert (-128 - zero_point) * scale <= -low + 0.501 * scale
    assert (127 - zero_point) * scale >= high - 0.501 * scale
    assert float(fake_quant(jnp.float32(0), grid)) == 0


@given(ends, ends)
def test_a_grid_is_the_same_in_and_out_of_jit(low, high):
    low, high = jnp.float32(-low), jnp.float32(high)
    inside, outside = jax.jit(covering)(low, high), covering(low, high)
    assert inside.scale == outside.scale
    assert inside.scale == np.float32(max(high - low, 1e-8)) * np.float32(1 / 255)
    assert inside.zero_point == outside.zero_point


def test_fake_quant_is_the_round_trip_through_integers():
    grid = Grid(np.float32(0.037), np.int32(-17))
    values = jnp.linspace(-6, 7, 1001)
    integers = quantized(values, grid)
    assert integers.dtype == jnp.int8
    np.testing.assert_array_equal(fake_quant(values, grid), dequantized(integers, grid))
    assert np.unique(integers).size == 256


def test_ties_go_to_even_and_averages_away_from_zero():
    grid = Grid(np.float32(1), np.int32(0))
    values = jnp.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    np.testing.assert_array_equal(fake_quant(values, grid), [-2, -2, 0, 0, 2, 2])
    np.testing.assert_array_equal(fake_quant_average(values, grid), [-3, -2, -1, 1, 2, 3])
    shifted = Grid(np.float32(1), np.int32(3))  # the integer rounded is q = value + 3
    np.testing.assert_array_equal(fake_quant_average(values, shifted), [-2, -1, 0, 1, 2, 3])


def test_the_gradient_is_one_inside_and_zero_outside():
    grid = Grid(np.float32(0.1), np.int32(28))  # -15.6 to 9.9
    values = jnp.float32([-15.7, -15.6, -3.14, 0, 9.9, 10])
    slope = jax.vmap(jax.grad(lambda value: fake_quant(value, grid)))(values)
    np.testing.assert_array_equal(slope, [0, 1, 1, 1, 1, 0])


def test_straight_through_is_exact_and_passes_gradients():
    values, rounded = jnp.float32([0.1, 1e6]), jnp.float32([0.3, 0.7])
    result, pull = jax.vjp(lambda v: straight_through(v, rounded), values)
    np.testing.assert_array_equal(result, rounded)
    np.testing.assert_array_equal(pull(jnp.float32([2, 3]))[0], [2, 3])


def test_a_constant_keeps_its_largest_value():
    values = jnp.float32([-3, 0.1, 2])
    grid = symmetric(values)
    np.testing.assert_allclose(fake_quant(values, grid), values, atol=grid.scale / 2)
    np.testing.assert_array_equal(quantized(values, grid), [-127, 4, 85])
