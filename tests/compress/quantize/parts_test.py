"""Kernels are cut until float32 sums of their products are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize.parts import exact_parts


def test_long_sums_are_cut_until_exact():
    rng = np.random.default_rng(0)
    kernel = rng.integers(-127, 128, (3, 3, 600, 4)).astype(np.int8)
    kernel[..., 0] = 127
    x = jnp.full((1, 3, 3, 600), 255.0)
    parts = exact_parts(kernel)
    assert len(parts) > 1
    np.testing.assert_array_equal(sum(parts), kernel)
    numbers = ("NHWC", "HWIO", "NHWC")
    total = sum(
        jax.lax.conv_general_dilated(x, part, (1, 1), "VALID", dimension_numbers=numbers).astype(
            int
        )
        for part in parts
    )
    np.testing.assert_array_equal(total.ravel(), kernel.reshape(-1, 4).astype(int).sum(0) * 255)
    with pytest.raises(ValueError, match="too large for exact sums"):
        exact_parts(np.full((30, 30, 1, 1), 127, np.int8))
