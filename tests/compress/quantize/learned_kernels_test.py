"""Learned kernel scales against a slow float64 version of LSQ's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize import lsq_per_channel, lsq_per_tensor, per_channel, per_tensor

WIDE = jnp.float32(1e3)  # an input scale at which no bias asks for more


def draw(seed, shape=(3, 3, 2, 4)):
    rng = np.random.default_rng(seed)
    return (rng.laplace(size=shape) * np.array([1, 0.1, 5, 1])).astype(np.float32)


def reference(kernel, scale, limit, weights, *, is_shared):
    """Esser et al., 2020, equations 1 to 3 and 5, in loops: outputs, gradients to weights and scales."""
    outputs, slopes = np.zeros(kernel.shape), np.zeros(kernel.shape)
    grads = np.zeros(kernel.shape[-1])
    for index in np.ndindex(kernel.shape):
        s, v = float(scale[index[-1]]), float(kernel[index]) / float(scale[index[-1]])
        if abs(v) >= limit:
            outputs[index], to_scale = np.sign(v) * limit * s, np.sign(v) * limit
        else:
            outputs[index], slopes[index] = np.round(v) * s, weights[index]
            to_scale = np.round(v) - v
        grads[index[-1]] += weights[index] * to_scale
    count = kernel.size if is_shared else kernel.size / kernel.shape[-1]
    return outputs, slopes, grads / np.sqrt(count * limit)


@pytest.mark.parametrize("kind", [lsq_per_channel, lsq_per_tensor])
@given(seed=st.integers(0, 10_000), bits=st.integers(2, 8), part=st.sampled_from([0.4, 1.0, 2.0]))
def test_value_and_gradients_are_the_papers(kind, seed, bits, part):
    rounding, kernel = kind(bits), draw(seed)
    scale = part * rounding.start(kernel)
    weights = np.random.default_rng(seed).normal(size=kernel.shape).astype(np.float32)

    def total(kernel, scale):
        outputs = rounding.fake_quant(kernel, scale)
        return jnp.sum(outputs * weights), outputs

    (to_kernel, to_scale), outputs = jax.grad(total, (0, 1), has_aux=True)(kernel, scale)
    steps = np.float64(kernel) / np.float64(scale)
    if np.any(np.abs(np.abs(steps - np.floor(steps)) - 0.5) < 1e-4):
        return
    shared = kind is lsq_per_tensor
    expected = reference(kernel, scale, rounding.limit, weights, is_shared=shared)
    np.testing.assert_allclose(outputs, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(to_kernel, expected[1].astype(np.float32))
    np.testing.assert_allclose(to_scale, expected[2], rtol=1e-3, atol=1e-4)


def test_the_start_is_the_papers():
    kernel = draw(0)
    means = np.abs(kernel.astype(np.float64)).mean((0, 1, 2))
    np.testing.assert_allclose(lsq_per_channel(4).start(kernel), 2 * means / np.sqrt(7), rtol=1e-6)
    np.testing.assert_allclose(
        lsq_per_tensor(3).start(kernel), np.full(4, 2 * means.mean() / np.sqrt(3)), rtol=1e-6
    )
    for learned, spanning in ((lsq_per_channel, per_channel), (lsq_per_tensor, per_tensor)):
        least_squares = spanning(3, mse=True).scale(kernel, jnp.zeros(4), WIDE)
        np.testing.assert_allclose(learned(3, mse=True).start(kernel), least_squares, rtol=1e-6)


def test_scales_stay_above_zero_and_biases_in_int32():
    kernel, bias = jnp.zeros((3, 2)), jnp.float32([0, 5])
    for rounding in (lsq_per_channel(), lsq_per_tensor(), lsq_per_channel(mse=True)):
        assert np.all(rounding.start(kernel) > 0)
        for step in (-1.0, 0.0):
            scale = rounding.scale(kernel, bias, jnp.float32(1e-3), jnp.full(2, step))
            assert np.all(scale > 0)
            assert np.abs(5 / (1e-3 * scale[1])) <= 2**30 * 1.0001
        # The gradient goes through, so that a scale can come back.
        slope = jax.grad(lambda s, r=rounding: r.scale(kernel, bias, WIDE, s).sum())
        np.testing.assert_array_equal(slope(jnp.full(2, -1.0)), 1)
    nothing, slopes = jax.value_and_grad(
        lambda k: lsq_per_channel().fake_quant(k, lsq_per_channel().start(k)).sum()
    )(kernel)
    assert nothing == 0
    assert np.all(np.isfinite(slopes))


def test_shapes_of_what_is_added():
    assert lsq_per_channel().added(6) == (6,)
    assert lsq_per_tensor().added(6) == ()


def test_a_scale_that_was_not_learned_is_not_made_up():
    with pytest.raises(ValueError, match="lsq_per_channel.*a learned scale is wanted"):
        lsq_per_channel().scale(draw(0), jnp.zeros(4), WIDE)


def test_bad_bits_are_refused():
    with pytest.raises(ValueError, match="lsq_per_channel: bits is 9"):
        lsq_per_channel(9)
