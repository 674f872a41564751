"""Grid: the affine map between 256 integers and the numbers they stand for, and rounding onto one.

``value = scale * (q - zero_point)`` with q in [-128, 127]; kernels use zero point 0 and [-127, 127], one
scale an output channel (the LiteRT 8-bit quantization specification).
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array: TypeAlias = jax.Array | np.ndarray

LOW, HIGH = -128, 127
KERNEL_LIMIT = 127
# Steps are products with these constants, never quotients: XLA rewrites x / 255 as x * (1/255), NumPy does
# not, and the two differ in the last bit.
PER_STEP = np.float32(1 / (HIGH - LOW))
PER_KERNEL_STEP = np.float32(1 / KERNEL_LIMIT)
# A range that was never wider than nothing still needs a step that can be divided by.
SMALLEST_RANGE = np.float32(1e-8)
SMALLEST_KERNEL = np.float32(1e-6)
# A bias is an int32 on the grid input scale * kernel scale. A quarter of the range is left to the products.
LARGEST_BIAS = np.float32(2.0**30)


class Grid(NamedTuple):
    """256 equally spaced numbers ``scale * (q - zero_point)``, q = -128..127.

    Attributes:
        scale: distance of neighbours, float32 > 0, [].
        zero_point: the integer that stands for 0, int32 in -128..127, [].
    """

    scale: Array | float
    zero_point: Array | int


def covering(low: Array, high: Array) -> Grid:
    """The grid that spans [low, high] and holds 0 exactly; ``low`` <= 0 <= ``high``, float32 []."""
    scale = jnp.maximum(high - low, SMALLEST_RANGE) * PER_STEP
    zero_point = jnp.clip(jnp.round(LOW - low / scale), LOW, HIGH)
    return Grid(scale, zero_point.astype(jnp.int32))


def symmetric(values: Array) -> Grid:
    """The grid with zero point 0 that spans a constant's values, by its largest magnitude."""
    return Grid(
        jnp.maximum(jnp.max(jnp.abs(values)), SMALLEST_KERNEL) * PER_KERNEL_STEP, np.int32(0)
    )


def least(grid: Grid) -> Array:
    """The least number of a grid, float32 []."""
    return (LOW - jnp.float32(grid.zero_point)) * jnp.float32(grid.scale)


def quantized(values: Array, grid: Grid) -> jax.Array:
    """The nearest integers of the grid, int8, ties to even; numbers outside become its ends."""
    steps = jnp.round(values * (1 / grid.scale)) + jnp.float32(grid.zero_point)
    return jnp.clip(steps, LOW, HIGH).astype(jnp.int8)


def dequantized(integers: Array, grid: Grid) -> jax.Array:
    """The numbers that integers stand for, float32."""
    return (jnp.float32(integers) - jnp.float32(grid.zero_point)) * jnp.float32(grid.scale)


def straight_through(values: Array, rounded: Array) -> jax.Array:
    """``rounded``, bit for bit, with the gradient of ``values`` (Bengio et al., 2013)."""
    return (values - lax.stop_gradient(values)) + lax.stop_gradient(rounded)


def fake_quant_steps(values: Array, scale: Array) -> jax.Array:
    """Values [..., O] rounded to whole steps of ``scale`` [O], ties to even; the gradient is 1."""
    scale = scale.reshape((1,) * (values.ndim - 1) + (-1,))
    return straight_through(values, jnp.round(values / scale) * scale)


def fake_quant(values: Array, grid: Grid) -> jax.Array:
    """Values rounded onto the grid, ties to even; the gradient is 1 inside its range and 0 outside.

    The range is not differentiated (Jacob et al., 2018, section 3.1).
    """
    zero_point = jnp.float32(grid.zero_point)
    low, high = (LOW - zero_point) * grid.scale, (HIGH - zero_point) * grid.scale
    # Not jnp.clip: its gradient at the two ends is 1/2.
    inside = jnp.where(values < low, low, jnp.where(values > high, high, values))
    return straight_through(inside, jnp.round(inside * (1 / grid.scale)) * grid.scale)


def fake_quant_average(values: Array, grid: Grid) -> jax.Array:
    """Averages of numbers on the grid, rounded onto it with ties away from zero, straight-through.

    Average pooling is the one 8-bit kernel that rounds so. A tie is one of the integers q, not of
    q - zero_point.
    """
    zero_point = jnp.float32(grid.zero_point)
    steps = values * (1 / grid.scale) + zero_point
    steps = jnp.trunc(steps + jnp.copysign(jnp.float32(0.5), steps)) - zero_point
    return straight_through(values, steps * grid.scale)
