"""Fixed-point products against Python's own integers, one number at a time, and against real numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize.multipliers import divided, multipliers, scaled, scaled_sum

factors = st.floats(2.0**-24, 100.0)
int16 = st.integers(-(2**15), 2**15 - 1)


def by_python(factor):
    """QuantizeMultiplier, quantization_util.cc."""
    fraction, exponent = math.frexp(factor)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    return (2**30, exponent + 1) if multiplier == 2**31 else (multiplier, exponent)


def high_product(value, multiplier):
    """SaturatingRoundingDoublingHighMul of gemmlowp; C++ divides towards 0."""
    nudged = value * multiplier + (2**30 if value * multiplier >= 0 else 1 - 2**30)
    return nudged // 2**31 if nudged >= 0 else -(-nudged // 2**31)


def divided_by_power(value, bits):
    """RoundingDivideByPOT of gemmlowp."""
    remainder, threshold = value & (2**bits - 1), ((2**bits - 1) >> 1) + (value < 0)
    return (value >> bits) + (remainder > threshold)


@given(factors)
def test_a_factor_is_its_multiplier(factor):
    by = multipliers(factor)
    assert (int(by.multiplier), int(by.exponent)) == by_python(factor)
    assert float(by.multiplier) * 2.0 ** (int(by.exponent) - 31) == pytest.approx(
        factor, rel=2**-31
    )


def test_factors_that_are_nearly_a_power_of_two_or_nothing():
    by = multipliers(np.array([1 - 2**-53, 1.0, 2.0**-33, 2.0**-32]))
    assert by.multiplier.tolist() == [2**30, 2**30, 0, 2**30]
    assert by.exponent.tolist() == [1, 1, 0, -31]


@given(st.integers(-(2**30), 2**30), st.floats(2.0**-20, 0.999))
def test_products_round_twice(value, factor):
    by = multipliers(factor)
    high = high_product(value, int(by.multiplier))
    assert int(scaled(np.int64(value), by)) == divided_by_power(high, -int(by.exponent))
    assert abs(int(scaled(np.int64(value), by)) - value * factor) <= 1.01


@given(int16, int16, st.floats(1e-6, 1.9))
def test_products_may_grow(first, second, factor):
    value, by = first * second, multipliers(factor)
    left, right = max(int(by.exponent), 0), max(-int(by.exponent), 0)
    expected = divided_by_power(high_product(value * 2**left, int(by.multiplier)), right)
    assert int(scaled(np.int64(value), by)) == expected


@given(st.lists(st.integers(-(2**46), 2**46), min_size=1, max_size=8), factors)
def test_sums_have_multipliers_of_15_bits(values, factor):
    multiplier, exponent = by_python(factor)
    reduced = (multiplier + 2**15) >> 16 if multiplier < 0x7FFF0000 else 0x7FFF
    shift = 15 - exponent
    expected = [(value * reduced + 2 ** (shift - 1)) >> shift for value in values]
    found = scaled_sum(np.array(values), multipliers(factor))
    assert found.tolist() == expected
    np.testing.assert_allclose(found, np.array(values) * factor, rtol=2**-15, atol=1)


def test_a_sum_cannot_be_scaled_by_more_than_kernels_can():
    with pytest.raises(
        ValueError, match="scaled by 2.*8, more than kernels can: the output's range"
    ):
        scaled_sum(np.arange(3), multipliers(np.array([0.1, 200.0, 1.0])))


@given(st.lists(int16, min_size=1, max_size=60), st.floats(1e-3, 10.0))
def test_a_mean_is_the_mean(values, factor):
    total, count = sum(values), len(values)
    found = int(scaled(np.int64(total), divided(multipliers(factor), count)))
    assert abs(found - factor * total / count) <= 1
