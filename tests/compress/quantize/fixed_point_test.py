"""Fixed point equals gemmlowp's two roundings, done here with integers of any size."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmini.compress.quantize.fixed_point import multiplied, quantized_multiplier

EDGES = [0, 1, -1, 2**16, -(2**16), 2**30, -(2**30), 2**31 - 1, 1 - 2**31]


def twice_rounded(value: int, factor: float) -> int:
    multiplier, exponent = quantized_multiplier(factor)
    product = (value << max(exponent, 0)) * multiplier
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)
    step = 1 << max(-exponent, 0)
    size = (2 * abs(high) + step) // (2 * step)
    return size if high >= 0 else -size


@given(
    st.lists(st.integers(1 - 2**31, 2**31 - 1), min_size=20, max_size=20),  # one shape, one program
    st.floats(1e-7, 0.999) | st.sampled_from([0.5, 0.25, 2.0**-20, 1 - 2.0**-30]),
)
@settings(deadline=None, max_examples=50)
def test_it_is_gemmlowps(values, factor):
    values = [*EDGES, *values]
    actual = np.asarray(multiplied(jnp.array(values, jnp.int32), factor))
    assert actual.tolist() == [twice_rounded(value, factor) for value in values]


@given(st.integers(-(2**20), 2**20), st.floats(1.0, 200.0))
@settings(deadline=None, max_examples=20)
def test_factors_above_one(value, factor):
    actual = int(multiplied(jnp.array([value], jnp.int32), factor)[0])
    assert actual == twice_rounded(value, factor)
    assert abs(actual - value * factor) <= 1
