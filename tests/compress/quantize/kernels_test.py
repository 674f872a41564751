"""A kernel's scale spans it or clips it where that loses least; gradients stop where it is clipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize import per_channel, per_tensor
from jaxmini.compress.quantize.grid import fake_quant_steps

WIDE = jnp.float32(1e3)  # an input scale at which no bias asks for more


def draw(name, shape=(3, 3, 16, 4), seed=0):
    rng = np.random.default_rng(seed)
    values = {"gauss": rng.normal, "laplace": rng.laplace, "uniform": rng.uniform}[name](size=shape)
    return (values * np.array([1, 0.1, 5, 1])).astype(np.float32)


def scale_of(rounding, kernel):
    return np.asarray(rounding.scale(kernel, jnp.zeros(kernel.shape[-1]), WIDE))


def lost(kernel, scale, limit):
    """Squared error of each channel, float64."""
    kernel, scale = kernel.astype(np.float64).reshape(-1, kernel.shape[-1]), np.float64(scale)
    return np.sum((np.clip(np.round(kernel / scale), -limit, limit) * scale - kernel) ** 2, 0)


def test_the_largest_of_a_channel_is_127_steps():
    kernel = jnp.float32([[1, 0, -254], [-127, 0, 2]])
    scale = per_channel().scale(kernel, jnp.zeros(3), jnp.float32(1))
    np.testing.assert_allclose(scale, [1, 1e-6 / 127, 2], rtol=1e-6)
    np.testing.assert_array_equal(fake_quant_steps(kernel[:, :1], scale[:1]), kernel[:, :1])
    shared = per_tensor().scale(kernel, jnp.zeros(3), jnp.float32(1))
    np.testing.assert_allclose(shared, [2, 2, 2], rtol=1e-6)


def test_a_bias_fits_int32():
    kernel, bias = jnp.float32([[1, 0, -254], [-127, 0, 2]]), jnp.float32([0, 5, 0])
    wide = per_channel().scale(kernel, bias, jnp.float32(1e-3))
    assert np.abs(5 / (1e-3 * wide[1])) <= 2**30 * 1.0001
    np.testing.assert_allclose(wide[::2], [1, 2], rtol=1e-6)
    # One channel's bias widens the step of all that share it.
    shared = per_tensor().scale(1e-9 * kernel, bias, jnp.float32(1e-3))
    np.testing.assert_array_equal(shared, np.full(3, shared[1]))
    assert np.abs(5 / (1e-3 * shared[1])) <= 2**30 * 1.0001


@given(st.integers(0, 1000))
def test_eight_bits_a_channel_are_what_they_always_were(seed):
    kernel = draw("gauss", seed=seed)
    expected = np.abs(kernel).max((0, 1, 2)) * np.float32(1 / 127)
    np.testing.assert_array_equal(scale_of(per_channel(), kernel), expected)
    steps = np.round(kernel / expected)
    np.testing.assert_array_equal(per_channel().fake_quant(kernel, expected), steps * expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["gauss", "laplace", "uniform"])
def test_mse_is_the_best_clip(name, bits):
    kernel, rounding = draw(name), per_channel(bits=bits, mse=True)
    scale, limit = jax.jit(lambda k: scale_of_traced(rounding, k))(kernel), rounding.limit
    spans = np.abs(kernel).max((0, 1, 2)) / limit
    tried = [lost(kernel, spans * part, limit) for part in np.linspace(1, 0.02, 400)]
    assert np.all(lost(kernel, scale, limit) <= 1.05 * np.min(tried, 0))
    assert np.all(lost(kernel, scale, limit) <= (1 + 1e-5) * tried[0])
    assert np.all(scale <= spans * (1 + 1e-6))
    if bits < 4:
        assert np.all(lost(kernel, scale, limit) < 0.9 * tried[0])


def scale_of_traced(rounding, kernel):
    return rounding.scale(kernel, jnp.zeros(kernel.shape[-1]), WIDE)


def test_mse_of_a_tensor_weighs_all_channels():
    kernel, rounding = draw("laplace"), per_tensor(bits=3, mse=True)
    scale = scale_of(rounding, kernel)
    assert np.unique(scale).size == 1
    span = np.abs(kernel).max() / 3
    tried = [lost(kernel, span * part, 3).sum() for part in np.linspace(1, 0.02, 400)]
    assert lost(kernel, scale, 3).sum() <= 1.05 * min(tried)


@given(st.integers(2, 8), st.booleans(), st.booleans(), st.integers(0, 99))
def test_integers_stay_in_their_bits(bits, mse, shared, seed):
    rounding = (per_tensor if shared else per_channel)(bits=bits, mse=mse)
    kernel = draw("laplace", seed=seed)
    scale = scale_of(rounding, kernel)
    steps = np.round(np.asarray(rounding.fake_quant(kernel, scale)) / scale)
    assert np.abs(steps).max() == rounding.limit == 2 ** (bits - 1) - 1


def test_silent_channels_have_a_scale():
    for rounding in (per_channel(mse=True), per_tensor(mse=True), per_channel(bits=2)):
        assert np.all(scale_of(rounding, np.zeros((3, 2), np.float32)) > 0)


def test_the_gradient_stops_where_the_kernel_is_clipped():
    kernel, scale = jnp.float32([[-9.0], [-3.4], [0.2], [3.0], [3.4], [3.6]]), jnp.ones(1)
    slope = jax.grad(lambda k: per_channel(3, mse=True).fake_quant(k, scale).sum())(kernel)
    np.testing.assert_array_equal(slope.ravel(), [0, 1, 1, 1, 1, 0])
    # Where the scale spans the kernel nothing is clipped, the largest included.
    kernel = jnp.asarray(draw("gauss"))
    rounding = per_channel()
    slope = jax.grad(lambda k: rounding.fake_quant(k, scale_of_traced(rounding, k)).sum())(kernel)
    np.testing.assert_array_equal(slope, 1)


def test_vmap_is_a_loop():
    kernels, rounding = jnp.stack([draw("gauss", seed=s) for s in range(3)]), per_channel(4, True)
    together = jax.vmap(lambda k: scale_of_traced(rounding, k))(kernels)
    for scale, kernel in zip(together, kernels, strict=True):
        np.testing.assert_allclose(scale, scale_of_traced(rounding, kernel), rtol=1e-6)


@pytest.mark.parametrize("bits", [np.int64(4), np.uint8(4), jnp.int32(4)])
def test_bits_of_any_whole_type_are_bits(bits):
    assert per_channel(bits=bits) == per_channel(bits=4)
    assert type(per_tensor(bits=bits).bits) is int


@pytest.mark.parametrize("bits", [1, 9, 0, 4.0, "8", True, np.float64(4), np.int64(9)])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match="per_tensor: bits is .*expected an integer 2..8"):
        per_tensor(bits=bits)
