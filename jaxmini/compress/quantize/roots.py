"""Roots: 1 / sqrt of an integer as TensorFlow Lite's kernel computes it, by Newton's iteration in int32.

From tensorflow/lite/kernels/elementwise.cc and kernels/internal/common.h (GetInvSqrtQuantizedMultiplierExp).
"""

import functools

import numpy as np

from jaxmini.compress.quantize.fixed_point import quantized_multiplier
from jaxmini.compress.quantize.grid import HIGH, LOW

# Bits that keep the root of an integer an integer.
SHIFT = 20
ITERATIONS = 5
HALF_ROOT_OF_2 = 1518500250  # of 2**31
HALF_THREE = (1 << 28) + (1 << 27)  # 1.5 of 2**28


def inverse_root(value: int, scale: np.float32, target: np.float32) -> int:
    """``1 / sqrt(value * scale)`` in steps of ``target``, as the kernel rounds it.

    Args:
        value: 1..255.
        scale: of the grid it is a number of.
        target: scale of the grid of the root.
    """
    factor = 1.0 / float(np.sqrt(np.float32(scale)) * np.float32(target))
    multiplier, shift = quantized_multiplier(factor)
    root, exponent = _root(value)
    return _multiplied(_multiplied(1, root, exponent + SHIFT), multiplier, shift - SHIFT)


@functools.cache
def _root(value: int) -> tuple[int, int]:
    """``1 / sqrt(value)`` as a multiplier of 31 bits and a power of two."""
    if value == 1:
        return 2**31 - 1, 0
    pairs = (31 - value.bit_length()) // 2 - 1
    fixed = (value << (2 * pairs)) >> 1  # of 2**28, as all numbers here
    half, x = _shifted(fixed, 1), 1 << 28
    for _ in range(ITERATIONS):
        cube = _product(_product(x, x), x) << 6
        x = (_product(HALF_THREE, x) - _product(half, cube)) << 3
    x, shift = _product(x, HALF_ROOT_OF_2), 11 - pairs
    return (x << -shift, 0) if shift < 0 else (x, -shift)


def _multiplied(value: int, multiplier: int, shift: int) -> int:
    """``value * multiplier / 2**31 * 2**shift``, rounded twice."""
    return _shifted(_product(value << max(shift, 0), multiplier), max(-shift, 0))


def _product(first: int, second: int) -> int:
    """``first * second / 2**31``, ties away from zero."""
    product = first * second
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    return nudged // 2**31 if nudged >= 0 else -(-nudged // 2**31)


def _shifted(value: int, bits: int) -> int:
    """``value / 2**bits``, ties away from zero."""
    mask = (1 << bits) - 1
    return (value >> bits) + ((value & mask) > (mask >> 1) + (value < 0))


def table(scale: np.float32, target: np.float32, zero_points: tuple[int, int]) -> np.ndarray:
    """The centred root of each integer -128..127 of a grid, int64 [256].

    The root of nothing is the greatest number of its grid, as the kernel says; that of numbers below, which
    a variance has none of, too.

    Args:
        scale, target: of the grids of the numbers and of their roots.
        zero_points: of both.
    """
    low, high = zero_points
    steps = [
        inverse_root(q - low, scale, target) if q > low else HIGH - high
        for q in range(LOW, HIGH + 1)
    ]
    return np.asarray(steps, np.int64)
