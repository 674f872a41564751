"""Residual nets: shapes, shortcuts, zero gammas, statistics, dtypes and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxmini import models
from jaxmini.model import from_linen
from jaxmini.models.resnet import Blocks, ResNet, Stem, subsample

KEY = jax.random.key(0)
PICTURES = np.random.default_rng(1).uniform(size=(2, 8, 8, 3)).astype(np.float32)


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
def test_zero_gamma_is_the_last_batch_norm_of_every_block(bottleneck):
    net = ResNet(Stem(8), (Blocks(8, 2, 2),), bottleneck=bottleneck)

    def gammas(net):
        params = flatten_dict(jax.eval_shape(net.init, KEY, PICTURES)["params"])
        names = [path for path in params if path[-1] == "scale"]

        def initial(key):  # Only what is returned is compiled: no kernels.
            params = flatten_dict(net.init(key, PICTURES)["params"])
            return [params[path] for path in names]

        return dict(zip(names, jax.jit(initial)(KEY), strict=True))

    last = "conv2" if bottleneck else "conv1"
    got = gammas(net)
    zeros = {names for names, gamma in got.items() if not gamma.any()}
    assert zeros == {(f"stage0_block{i}", last, "bn", "scale") for i in range(2)}
    assert all((gamma == 1).all() for names, gamma in got.items() if names not in zeros)
    assert all((gamma == 1).all() for gamma in gammas(net.clone(zero_gamma=False)).values())


def test_with_zero_gamma_a_block_is_its_shortcut(draw):
    net = ResNet(Stem(8), (Blocks(8, 2),))
    variables = draw(net, PICTURES)
    stem = {name: {"stem": tree["stem"]} for name, tree in variables.items()}
    alone = jax.jit(ResNet(Stem(8), ()).apply)(stem, PICTURES)
    assert np.abs(jax.jit(net.apply)(variables, PICTURES) - alone).max() > 0.01
    for i in range(2):
        last = variables["params"][f"stage0_block{i}"]["conv1"]["bn"]
        last |= {name: np.zeros_like(value) for name, value in last.items()}
    np.testing.assert_allclose(jax.jit(net.apply)(variables, PICTURES), alone, atol=1e-6)


def test_shortcut_a_drops_pixels_and_pads_channels_on_both_sides():
    out = subsample(PICTURES[..., :2], 2, 6)
    np.testing.assert_array_equal(out[..., 2:4], PICTURES[:, ::2, ::2, :2])
    np.testing.assert_array_equal(out[..., [0, 1, 4, 5]], 0.0)


def test_shortcuts_a_and_b_differ_in_parameters_and_answers(draw):
    a, b = (ResNet(Stem(4), (Blocks(8, 1, 2),), shortcut=shortcut) for shortcut in "AB")
    assert "shortcut" not in draw(a, PICTURES)["params"]["stage0_block0"]
    variables = draw(b, PICTURES)  # Shortcut A reads what both have in common.
    block = variables["params"]["stage0_block0"]
    assert block["shortcut"]["conv"]["kernel"].shape == (1, 1, 4, 8)
    answers = [jax.jit(net.apply)(variables, PICTURES) for net in (a, b)]
    assert np.abs(answers[0] - answers[1]).max() > 0.01


@pytest.mark.parametrize("features", [2, 6])  # of three: fewer, and an odd number more
def test_shortcut_a_refuses_what_it_cannot_pad(features):
    with pytest.raises(ValueError, match=r"cannot make . of 3; use shortcut 'B'"):
        subsample(PICTURES, 2, features)


def test_training_returns_new_statistics_and_inference_none(draw):
    net = ResNet(Stem(4), (), 3)
    model, variables = from_linen(net), draw(net, PICTURES)
    _, updates = jax.jit(functools.partial(model.apply, train=True))(variables, PICTURES)
    old, new = variables["batch_stats"]["stem"]["bn"], updates["batch_stats"]["stem"]["bn"]
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    x = jax.lax.conv_general_dilated(
        PICTURES, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected = 0.9 * old["mean"] + 0.1 * x.mean((0, 1, 2))
    np.testing.assert_allclose(new["mean"], expected, atol=1e-6)
    assert jax.eval_shape(model.apply, variables, PICTURES)[1] == {}


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters_and_answers(draw):
    net = ResNet(Stem(4, pool=True), (Blocks(8, 1, 2),), 3, zero_gamma=False)
    low, variables = net.clone(dtype="bfloat16"), draw(net, PICTURES)
    train = {"train": True, "mutable": ["batch_stats"]}
    answers, updates = jax.jit(functools.partial(low.apply, **train))(variables, PICTURES)
    stored = jax.tree.leaves((draw(low, PICTURES), updates))
    assert {leaf.dtype for leaf in [*stored, answers]} == {jnp.dtype("float32")}
    exact, _ = jax.jit(functools.partial(net.apply, **train))(variables, PICTURES)
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
