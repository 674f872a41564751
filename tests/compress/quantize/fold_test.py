"""A chain folded into kernel and bias does what the chain does."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.fold import Affine, fold, is_per_channel
from jaxmini.compress.quantize.program import Literal
from jaxmini.compress.quantize.transform import make_plan
from jaxmini.model import from_linen

STEPS = {
    ("add", False): lambda x, v: x + v,
    ("sub", False): lambda x, v: x - v,
    ("sub", True): lambda x, v: v - x,
    ("mul", False): lambda x, v: x * v,
    ("div", False): lambda x, v: x / v,
    ("neg", False): lambda x, v: -x,
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=5), st.integers(0, 1000))
def test_any_chain(names, seed):
    rng = np.random.default_rng(seed)
    kernel, x = rng.normal(size=(4, 3)), rng.normal(size=(6, 4))
    chain, expected = [], x @ kernel
    for name, left in names:
        operand = rng.choice((-1, 1), (1, 3)) * rng.uniform(0.5, 2, (1, 3))
        expected = STEPS[name, left](expected, operand)
        chain.append(Affine(name, Literal(np.float32(operand)), left))
    folded, bias = fold(jnp.float32(kernel), chain, (3,), {})
    np.testing.assert_allclose(x @ np.asarray(folded) + np.asarray(bias), expected, atol=2e-4)


def test_channels_of_two_dimensions():
    table = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    chain = (Affine("mul", Literal(table)), Affine("add", Literal(np.float32(1))))
    kernel, bias = fold(jnp.ones((4, 6)), chain, (2, 3), {})
    np.testing.assert_array_equal(kernel, np.tile(np.arange(6), (4, 1)))
    np.testing.assert_array_equal(bias, np.ones(6))


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((), (4,), True),
        ((1, 1, 1, 4), (4,), True),
        ((4,), (4,), True),
        ((1, 4), (4,), True),
        ((1, 3, 4), (3, 4), True),
        ((1, 5, 1, 4), (4,), False),
        ((1, 1, 1, 4), (1,), False),
        ((8, 4), (4,), False),
    ],
)
def test_what_counts_as_per_channel(shape, channels, expected):
    assert is_per_channel(shape, channels) is expected


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True, epsilon=1e-3)(nn.Conv(4, (3, 3))(x))


def test_batch_norm_with_negative_and_zero_gamma():
    x, model = jnp.ones((1, 5, 5, 2)), from_linen(Norm())
    variables = model.init(jax.random.key(0), x)
    gamma, beta = np.float32([1, -2, 0, 0.5]), np.float32([0.1, 0.2, 0.3, -0.4])
    mean, var = np.float32([1, -1, 2, 0]), np.float32([0.5, 1, 2, 1e-4])
    norm = {"scale": jnp.asarray(gamma), "bias": jnp.asarray(beta)}
    conv = {**variables["params"]["Conv_0"], "bias": jnp.float32([1, 2, 3, 4])}
    variables = {
        "params": {"Conv_0": conv, "BatchNorm_0": norm},
        "batch_stats": {"BatchNorm_0": {"mean": jnp.asarray(mean), "var": jnp.asarray(var)}},
    }
    plan = make_plan(model, variables, x)
    (group,) = plan.weighted
    kernel, bias = Float(plan, variables).weight(group)
    factor = gamma / np.sqrt(var + 1e-3)
    np.testing.assert_allclose(kernel, conv["kernel"] * factor.reshape(1, 1, 1, 4), rtol=1e-5)
    expected = (np.float32([1, 2, 3, 4]) - mean) * factor + beta
    np.testing.assert_allclose(bias, expected, rtol=1e-4, atol=1e-5)
    assert not np.any(kernel[..., 2])
    assert bias[2] == beta[2]
