"""Fixed point: an int32 times a real number as gemmlowp computes it, with two roundings, in 32 bits.

TensorFlow Lite's kernels that XNNPACK does not replace (BATCH_MATMUL) end so
(tensorflow/lite/kernels/internal/common.h, MultiplyByQuantizedMultiplier).
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.state import Array

HALF = np.uint32(0xFFFF)


def multiplied(values: Array, factor: float) -> Array:
    """``values * factor`` in int32: rounded to a product of 31 bits, then by a shift, ties away from 0.

    Args:
        values: int32, not the least one.
        factor: positive; below 1 where the values may fill 31 bits.
    """
    multiplier, exponent = quantized_multiplier(factor)
    if exponent > 0:
        values = values << exponent
    high = _rounding_high_product(values, multiplier)
    return _rounding_shift(high, max(-exponent, 0))


def quantized_multiplier(factor: float) -> tuple[int, int]:
    """``multiplier / 2**31 * 2**exponent``, the multiplier an integer of at least 2**30."""
    fraction, exponent = math.frexp(factor)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    return (2**30, exponent + 1) if multiplier == 2**31 else (multiplier, exponent)


def _rounding_high_product(values: Array, multiplier: int) -> Array:
    """``values * multiplier / 2**31``, ties up, from products of 16 bits."""
    size = jnp.abs(values).astype(jnp.uint32)
    size_high, size_low = size >> 16, size & HALF
    high, low = np.uint32(multiplier >> 16), np.uint32(multiplier & 0xFFFF)
    lowest, left, right = size_low * low, size_high * low, size_low * high
    middle = (lowest >> 16) + (left & HALF) + (right & HALF)
    top = size_high * high + (left >> 16) + (right >> 16) + (middle >> 16)
    bottom = (middle << 16) | (lowest & HALF)
    whole = (top << 1) | (bottom >> 31)
    rest = bottom & np.uint32(0x7FFFFFFF)
    half = np.uint32(2**30)
    up = jnp.where(values < 0, rest > half, rest >= half)
    rounded = (whole + up.astype(jnp.uint32)).astype(jnp.int32)
    return jnp.where(values < 0, -rounded, rounded)


def _rounding_shift(values: Array, bits: int) -> Array:
    """``values / 2**bits``, ties away from zero."""
    mask = jnp.int32((1 << bits) - 1)
    above = (values & mask) > (mask >> 1) + (values < 0).astype(jnp.int32)
    return lax.shift_right_arithmetic(values, jnp.int32(bits)) + above.astype(jnp.int32)
