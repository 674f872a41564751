"""Grids hold 0, rounding is what an integer file does, gradients pass where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


bits = st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16])


@given(ends, ends, bits)
def test_a_grid_of_any_bits_spans_its_range_and_holds_zero(low, high, bits):
    grid = covering(jnp.float32(-low), jnp.float32(high), bits)
    scale, zero_point = float(grid.scale), int(grid.zero_point)
    assert (grid.low, grid.high, grid.bits) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, bits)
    assert scale > 0
    assert grid.low <= zero_point <= grid.high
    assert zero_point == 0 or bits < 16
    assert (grid.low - zero_point) * scale <= -low + 0.501 * scale
    assert (grid.high - zero_point) * scale >= high - 0.501 * scale
    steps = max(low, high, 1e-8) / 32767 if bits == 16 else max(low + high, 1e-8) / (2**bits - 1)
    np.testing.assert_allclose(scale, steps, rtol=1e-6)
    assert float(fake_quant(jnp.float32(0), grid)) == 0


@given(
    st.floats(2.0**-10, 2.0**10, width=32),
    st.integers(0, 2**16 - 1),
    bits,
    st.integers(0, 2**32 - 1),
)
def test_rounding_is_that_of_float64(scale, place, bits, seed):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    zero_point = 0 if bits == 16 else low + place % 2**bits
    grid = Grid(np.float32(scale), np.int32(zero_point), bits)
    rng = np.random.default_rng(seed)
    # Away from ties, where float32 and float64 may part.
    steps = rng.integers(low - 3, high + 4, 64) - zero_point + rng.uniform(-0.4, 0.4, 64)
    values = (steps * np.float64(grid.scale)).astype(np.float32)
    wanted = np.clip(np.rint(values / np.float64(grid.scale)) + zero_point, low, high)
    integers = quantized(jnp.asarray(values), grid)
    assert integers.dtype == (np.int16 if bits == 16 else np.int8) == grid.dtype
    np.testing.assert_array_equal(integers, wanted)
    numbers = (wanted - zero_point) * np.float64(grid.scale)
    np.testing.assert_allclose(dequantized(integers, grid), numbers, rtol=1e-6, atol=0)
    np.testing.assert_array_equal(
        fake_quant(jnp.asarray(values), grid), dequantized(integers, grid)
    )


@pytest.mark.parametrize("bits", [3, 8, 16])
def test_a_grid_passes_jit_and_a_file(bits):
    grid = jax.jit(lambda low, high: covering(low, high, bits))(jnp.float32(-1), jnp.float32(2))
    assert grid.bits == bits
    assert len(jax.tree.leaves(grid)) == 2
    again = Grid.from_arrays(**grid.arrays())
    assert again.bits == bits
    assert (again.scale, again.zero_point) == (grid.scale, grid.zero_point)
    assert ("bits" in grid.arrays()) == (bits != 8)


def test_a_wide_constant_has_the_integers_of_its_bits():
    values = jnp.float32([-3, 0.1, 2])
    np.testing.assert_array_equal(quantized(values, symmetric(values, 16)), [-32767, 1092, 21845])
