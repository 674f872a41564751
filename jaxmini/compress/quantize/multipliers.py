"""Multipliers: integers times real numbers as TensorFlow Lite's kernels of int16 activations make it.

NumPy, int64 throughout (tensorflow/lite/kernels/internal: quantization_util.cc, common.cc; Jacob et al.,
2018, section 2.2). The same in 32 bits and traced is ``fixed_point``.
"""

from typing import NamedTuple

import numpy as np

# A multiplier of 31 bits is cut to 15 where the other factor has 48.
REDUCED_LIMIT, LARGEST_REDUCED = 0x7FFF0000, 0x7FFF
# Exponents of multipliers that products of 48 bits can have.
LEAST_EXPONENT, MOST_EXPONENT = -31, 7


class Multipliers(NamedTuple):
    """Real numbers as ``multiplier / 2**31 * 2**exponent``.

    Attributes:
        multiplier: 2**30..2**31 - 1, or 0; int64 [...].
        exponent: int64 [...].
    """

    multiplier: np.ndarray
    exponent: np.ndarray


def multipliers(factors: np.ndarray | float) -> Multipliers:
    """The nearest multipliers of positive factors, float64 [...]; those below 2**-32 become 0."""
    fraction, exponent = np.frexp(np.asarray(factors, np.float64))
    multiplier = np.floor(fraction * 2**31 + 0.5).astype(np.int64)
    exponent = exponent.astype(np.int64)
    full = multiplier == 2**31
    multiplier, exponent = np.where(full, 2**30, multiplier), exponent + full
    tiny = exponent < LEAST_EXPONENT
    return Multipliers(np.where(tiny, 0, multiplier), np.where(tiny, 0, exponent))


def scaled_sum(values: np.ndarray, by: Multipliers) -> np.ndarray:
    """Sums of 48 bits times multipliers of 15 bits, one rounding, ties up; int64.

    Args:
        values: int64, of magnitude below 2**47.
        by: broadcast against the values; exponents at most 7.
    """
    if np.any(by.exponent > MOST_EXPONENT):
        raise ValueError(
            f"int16: a product is to be scaled by 2**{int(np.max(by.exponent))}, more than kernels can: "
            "the output's range is too small for its input and kernel; calibrate with real data"
        )
    near = (by.multiplier + (1 << 15)) >> 16
    reduced = np.where(by.multiplier < REDUCED_LIMIT, near, LARGEST_REDUCED)
    shift = 15 - by.exponent
    return (values * reduced + (np.int64(1) << (shift - 1))) >> shift


def scaled(values: np.ndarray, by: Multipliers) -> np.ndarray:
    """Numbers of 32 bits times multipliers of 31 bits, rounded twice, ties away from 0; int64."""
    left, right = np.maximum(by.exponent, 0), np.maximum(-by.exponent, 0)
    doubled = (values << left) * by.multiplier
    nudged = doubled + np.where(doubled >= 0, 1 << 30, 1 - (1 << 30))
    high = np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31))
    mask = (np.int64(1) << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


def divided(by: Multipliers, count: int) -> Multipliers:
    """Multipliers of a sum that give the mean of ``count`` numbers, as MEAN makes them."""
    exponent = int(by.exponent)
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    multiplier = (int(by.multiplier) << shift) // count
    return Multipliers(np.int64(multiplier), np.int64(exponent - shift))
