"""Residual nets: shapes, shortcuts, what zero gammas mean, and errors. Counts are in evaluate/cost_test.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini import models
from jaxmini.model import from_linen
from jaxmini.models.resnet import Blocks, ResNet, Stem, subsample

KEY = jax.random.key(0)
PICTURES = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))


def output(module, inputs):
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x)[0], inputs)


@pytest.mark.parametrize(
    ("module", "features"),
    [
        (models.resnet_cifar(8), 64),
        (models.resnet8x4(), 256),
        (models.resnet18(width=8, stem="cifar"), 64),
        (models.resnet34(width=8), 64),
        (models.resnet50(width=8), 256),
        (models.small_resnet(), 48),
        (models.small_resnet(widths=(16, 32), stem_width=8, stem_stride=1, strides=(2, 2)), 32),
    ],
)
def test_without_classes_a_net_returns_its_pooled_features(module, features):
    out = output(module, jnp.zeros((2, 32, 32, 3)))
    assert (out.shape, out.dtype) == ((2, features), jnp.float32)
    assert output(module.clone(num_classes=7), jnp.zeros((2, 32, 32, 3))).shape == (2, 7)


def test_the_classifier_is_called_head():
    variables = jax.eval_shape(models.small_resnet(10).init, KEY, jnp.zeros((1, 28, 28, 1)))
    assert variables["params"]["head"]["kernel"].shape == (48, 10)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_gammas_make_every_block_its_shortcut(bottleneck):
    width = 2 if bottleneck else 8
    net = ResNet(Stem(8), (Blocks(width, 2),), bottleneck=bottleneck)
    variables = net.init(KEY, PICTURES)
    stem = {name: {"stem": tree["stem"]} for name, tree in variables.items()}
    alone = ResNet(Stem(8), ()).apply(stem, PICTURES)
    np.testing.assert_allclose(net.apply(variables, PICTURES), alone, atol=1e-6)
    ones = net.clone(zero_gamma=False)
    moved = ones.apply(ones.init(KEY, PICTURES), PICTURES)
    assert np.abs(moved - alone).max() > 0.01


def test_shortcut_a_drops_pixels_and_pads_channels_on_both_sides():
    out = subsample(PICTURES[..., :2], 2, 6)
    np.testing.assert_array_equal(out[..., 2:4], PICTURES[:, ::2, ::2, :2])
    np.testing.assert_array_equal(out[..., [0, 1, 4, 5]], 0.0)


def test_shortcuts_a_and_b_differ_in_parameters_and_answers():
    nets = [ResNet(Stem(4), (Blocks(8, 1, 2),), shortcut=shortcut) for shortcut in "AB"]
    a, b = (net.init(KEY, PICTURES) for net in nets)
    assert "shortcut" not in a["params"]["stage0_block0"]
    assert b["params"]["stage0_block0"]["shortcut"]["conv"]["kernel"].shape == (1, 1, 4, 8)
    answers = [net.apply(variables, PICTURES) for net, variables in zip(nets, (a, b), strict=True)]
    assert np.abs(answers[0] - answers[1]).max() > 0.01


@pytest.mark.parametrize("features", [1, 5])
def test_shortcut_a_refuses_what_it_cannot_pad(features):
    with pytest.raises(ValueError, match="cannot make .* use shortcut 'B'"):
        subsample(PICTURES, 2, features + 1 - PICTURES.shape[-1] % 2)


def test_training_returns_new_statistics_and_inference_none():
    model = from_linen(ResNet(Stem(4), (Blocks(4, 1),), 3))
    variables = model.init(KEY, PICTURES)
    _, updates = model.apply(variables, PICTURES, train=True)
    old, new = variables["batch_stats"]["stem"]["bn"], updates["batch_stats"]["stem"]["bn"]
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    x = jax.lax.conv_general_dilated(
        PICTURES, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected = 0.9 * old["mean"] + 0.1 * x.mean((0, 1, 2))
    np.testing.assert_allclose(new["mean"], expected, atol=1e-6)
    assert model.apply(variables, PICTURES)[1] == {}


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters_and_answers():
    net = ResNet(Stem(4, pool=True), (Blocks(8, 1, 2),), 3, zero_gamma=False)
    variables = net.init(KEY, PICTURES)
    low = net.clone(dtype="bfloat16")
    answers, updates = low.apply(variables, PICTURES, train=True, mutable=["batch_stats"])
    stored = jax.tree.leaves((low.init(KEY, PICTURES), updates))
    assert {leaf.dtype for leaf in [*stored, answers]} == {jnp.dtype("float32")}
    exact, _ = net.apply(variables, PICTURES, train=True, mutable=["batch_stats"])
    assert 0 < np.abs(answers - exact).max() < 0.1
    program = jax.make_jaxpr(low.apply)(variables, PICTURES)
    convolutions = [e for e in program.eqns if e.primitive.name == "conv_general_dilated"]
    assert {eqn.outvars[0].aval.dtype for eqn in convolutions} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.resnet_cifar(18), "18 is not 6n .* did you mean 20"),
        (lambda: models.resnet_cifar(2), "did you mean 8"),
        (lambda: models.resnet18(stem="cifra"), "no 'cifra', .* did you mean 'cifar'"),
        (lambda: models.small_resnet(widths=(8, 16), strides=(1, 2, 2)), "one entry a stage"),
        (lambda: output(models.small_resnet(shortcut="a"), PICTURES), "shortcut: .* no 'a'"),
        (lambda: output(models.small_resnet(padding="torhc"), PICTURES), "did you mean 'torch'"),
    ],
)
def test_errors_name_the_value_and_the_nearest(build, message):
    with pytest.raises(ValueError, match=message):
        build()
