"""Convolution and BatchNorm: initial values and borders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini import models
from jaxmini.models.conv_bn import ConvBN, borders
from jaxmini.record import describe, rebuild

KEY = jax.random.key(0)


@pytest.mark.parametrize(("groups", "fan_out"), [(1, 9 * 64), (64, 9)])
def test_kernels_start_with_the_variance_of_their_fan_out(groups, fan_out):
    brick = ConvBN(64, groups=groups)
    x = jnp.zeros((1, 4, 4, 64))
    kernel = jax.jit(lambda key: brick.init(key, x)["params"]["conv"]["kernel"])(KEY)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=0.1)


def test_torch_padding_is_explicit_zeros_on_every_side(draw):
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 3)).astype(np.float32)
    brick = ConvBN(4, kernel=5, stride=2, act=None, padding="torch")
    variables = draw(brick, x)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    norm, statistics = variables["params"]["bn"], variables["batch_stats"]["bn"]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))[:, ::2, ::2]
    y = np.einsum("bhwcij,ijco->bhwo", windows, variables["params"]["conv"]["kernel"])
    y = (y - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    expected = y * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(jax.jit(brick.apply)(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_a_float32_program_converts_nothing(draw, train):
    x = np.zeros((1, 8, 8, 3), np.float32)
    brick = ConvBN(4)
    apply = functools.partial(brick.apply, train=train, mutable=["batch_stats"])
    program = jax.make_jaxpr(apply)(draw(brick, x), x)
    assert "convert_element_type" not in {eqn.primitive.name for eqn in program.eqns}


def test_borders():
    assert borders(7, "same") == "SAME"
    assert borders(7, "torch") == ((3, 3), (3, 3))


@pytest.mark.parametrize(
    "module",
    [
        models.resnet50(10, width=8, stem="cifar", padding="torch"),
        models.small_resnet(10, widths=(8, 16), dtype="bfloat16"),
        models.mobilenet_v2(10, width=0.5, small_inputs=1),
        models.mobilenet_v4_conv_s(width=0.35),
        models.vit_tiny(10, patch=4),
        models.projection_head(64, hidden=128),
        models.classifier(10),
    ],
)
def test_every_module_can_be_recorded_and_rebuilt(module):
    assert rebuild(describe(module)) == module
