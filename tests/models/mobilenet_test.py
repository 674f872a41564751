"""Mobile nets: shapes, widths, strides for small pictures, the two paddings, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini import models
from jaxmini.models.mobilenet import (
    MOBILENET_V4_CONV_S,
    Conv,
    Inverted,
    MobileNet,
    divisible,
    keep_resolution,
)
from jaxmini.models.resnet import Blocks, ResNet, Stem

KEY = jax.random.key(0)
RNG = np.random.default_rng(1)


def shapes(module, size):
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x), jnp.zeros((2, size, size, 3)))


@pytest.mark.parametrize(
    ("module", "features"),
    [
        (models.mobilenet_v2(width=0.35), 1280),
        (models.mobilenet_v2(width=1.4), 1792),
        (models.mobilenet_v4_conv_s(width=0.35), 1280),
        (models.mobilenet_v4_conv_s(width=0.35, head_features=64), 64),
        (models.mobilenet_v4_conv_s(width=0.5, head_features=None), 480),
    ],
)
def test_without_classes_a_net_returns_its_features(module, features):
    out, _ = shapes(module, 32)
    assert (out.shape, out.dtype) == ((2, features), jnp.float32)
    assert shapes(module.clone(num_classes=7), 32)[0].shape == (2, 7)


def test_the_second_convolution_of_a_block_carries_its_stride_where_there_is_one():
    rows = (Inverted(8, expand=2, stride=2, start=3), Inverted(8, 2, stride=2, start=3, kernel=0))
    x = jnp.zeros((1, 16, 16, 8))
    net = MobileNet(rows)
    program = jax.make_jaxpr(net.apply)(jax.eval_shape(net.init, KEY, x), x)
    strided = [
        (e.invars[0].aval.shape[1], e.params["window_strides"], e.params["feature_group_count"])
        for e in program.eqns
        if e.primitive.name == "conv_general_dilated"
    ]
    assert strided == [
        (16, (1, 1), 8),
        (16, (1, 1), 1),
        (16, (2, 2), 16),
        (8, (1, 1), 1),
        (8, (2, 2), 8),
        (4, (1, 1), 1),
        (4, (1, 1), 1),
    ]


def test_a_block_adds_its_input_only_where_the_shape_stays():
    net = MobileNet((Inverted(8, 2, repeats=2), Inverted(16, 2)))
    x = jnp.zeros((1, 8, 8, 8))
    program = jax.make_jaxpr(net.apply)(jax.eval_shape(net.init, KEY, x), x)
    pictures = [v for v in program.eqns if v.primitive.name == "add" and _both_pictures(v)]
    assert len(pictures) == 2


def _both_pictures(eqn):
    return all(len(v.aval.shape) == 4 and v.aval.shape[1] > 1 for v in eqn.invars)


@pytest.mark.parametrize(("small_inputs", "side"), [(0, 1), (1, 2), (2, 4), (5, 32)])
def test_small_inputs_take_the_first_strides_away(small_inputs, side):
    net = models.mobilenet_v4_conv_s(width=0.25, small_inputs=small_inputs)
    x = jnp.zeros((1, 32, 32, 3))
    program = jax.make_jaxpr(net.apply)(jax.eval_shape(net.init, KEY, x), x)
    last = [e for e in program.eqns if e.primitive.name == "reduce_sum"][-1]
    assert last.invars[0].aval.shape == (1, side, side, 240)


def test_small_inputs_refuses_more_strides_than_there_are():
    with pytest.raises(ValueError, match="small_inputs=6, expected 0 to 5"):
        keep_resolution(MOBILENET_V4_CONV_S, 6)


@given(st.floats(1.0, 4096.0))
def test_divisible_channels(channels):
    got = divisible(channels)
    assert got % 8 == 0
    assert got >= max(8, 0.9 * channels)
    assert got <= max(8.0, channels + 8)


@pytest.mark.parametrize(("channels", "expected"), [(11.2, 16), (44.8, 48), (8.4, 8), (33.6, 32)])
def test_divisible_gives_the_published_widths(channels, expected):
    assert divisible(channels) == expected


def test_mobilenet_v2_is_clipped_at_six_and_v4_is_not(draw):
    assert models.mobilenet_v2().relu6
    assert not models.mobilenet_v4_conv_s().relu6
    net = MobileNet((Conv(4, kernel=1),), relu6=True)
    x = 100.0 * RNG.normal(size=(1, 8, 8, 3)).astype(np.float32)
    variables = draw(net, x)
    assert net.apply(variables, x).max() <= 6.0
    assert net.clone(relu6=False).apply(variables, x).max() > 6.0


ROWS = (
    Conv(8, stride=2),
    Inverted(8, expand=2, stride=2, kernel=5, start=5),
    Inverted(8, expand=2, kernel=0, start=3),
    Inverted(16, expand=1, stride=2),
)


@pytest.mark.parametrize(
    "net",
    [
        MobileNet(ROWS, 10, head_features=16),
        ResNet(Stem(8, kernel=7, stride=2, pool=True), (Blocks(8, 1),), 10, zero_gamma=False),
    ],
)
def test_weights_for_torch_padding_run_under_same_on_rotated_pictures(net, draw):
    # At stride 2 on even sizes PyTorch pads one row more above, SAME one row more below; rotated by
    # 180 degrees, kernels and picture, the one is the other.
    x = RNG.normal(size=(2, 32, 32, 3)).astype(np.float32)
    variables = draw(net, x)
    expected = jax.jit(net.clone(padding="torch").apply)(variables, x)
    rotated = {**variables, "params": jax.tree.map(_rotated, variables["params"])}
    apply = jax.jit(net.apply)
    got = apply(rotated, x[:, ::-1, ::-1])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(apply(variables, x) - expected).max() > 1e-2


def _rotated(kernel):
    return kernel[::-1, ::-1] if kernel.ndim == 4 else kernel


def test_bfloat16_stays_near_float32_and_returns_float32(draw):
    x = RNG.normal(size=(2, 16, 16, 3)).astype(np.float32)
    net = MobileNet(ROWS, 10, head_features=16)
    variables = draw(net, x)
    got = jax.jit(net.clone(dtype="bfloat16").apply)(variables, x)
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - jax.jit(net.apply)(variables, x)).max() < 0.1


@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("make", [models.mobilenet_v2, models.mobilenet_v4_conv_s])
def test_a_width_is_positive_and_finite(make, width):
    with pytest.raises(ValueError, match=f"MobileNet: width={width}, expected a positive"):
        make(width=width)
