"""ONNX operations: each kind of group computes what its plan does; those without a form are named."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import make_plan
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.functions import Apply
from jaxmini.compress.quantize.plan import Elementwise, Group, Mean, Move, Plan
from jaxmini.compress.quantize.products import Product
from jaxmini.export import Artifact, integer_form, onnx
from jaxmini.export.onnx_numbers import Floats
from jaxmini.export.onnx_ops import translate
from jaxmini.model import from_linen
from tests.compress.quantize.quantize_nets import Residual
from tests.export.conftest import NORMALIZATION
from tests.export.onnx_graphs import Plain, in_pairs, planned, translated
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import FUNCTIONS, IMAGES, SHAPE, artifact_of, name_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)
PARAMS = {
    "kernel": RNG.normal(size=(3, 2, 3, 4)).astype(np.float32),
    "each": RNG.normal(size=(3, 3, 1, 6)).astype(np.float32),
    "dense": RNG.normal(size=(5, 3, 4)).astype(np.float32),
    "bias": RNG.normal(size=(4,)).astype(np.float32),
    "table": RNG.normal(size=(1, 4, 5, 3)).astype(np.float32),
}


def convolution(x: jax.Array, kernel: jax.Array, **options: object) -> jax.Array:
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=layout, **options)


KINDS: dict[str, Callable] = {
    "convolution": lambda p, x: convolution(
        x, p["kernel"], window_strides=(2, 1), padding=((1, 0), (0, 2)), rhs_dilation=(1, 2)
    ),
    "depthwise, relu6": lambda p, x: jax.nn.relu6(convolution(x, p["each"], feature_group_count=3)),
    "a bias and relu": lambda p, x: jax.nn.relu(
        convolution(x, p["kernel"]) + p["bias"][None, None, None]
    ),
    "a scaling of pictures": lambda p, x: (x - 1) * p["table"][0, 0, 0][None, None, None],
    "a scaling of rows": lambda p, x: x.reshape(2, 20, 3) * p["table"][0, 0, 0][None, None] + 2,
    "a scaling of vectors": lambda p, x: jax.nn.relu(x.reshape(2, 60) / 3),
    "a dense layer of two axes": lambda p, x: (
        jnp.einsum("bhwc,wco->bho", x, p["dense"]) + p["bias"][None, None]
    ),
    "a dense layer to two axes": lambda p, x: jnp.einsum("bhwc,oci->bhwoi", x, p["dense"]),
    "a mean over pixels": lambda p, x: convolution(x, p["kernel"]).mean((1, 2)),
    "a mean over channels": lambda p, x: convolution(x, p["kernel"]).mean(-1, keepdims=True),
    "an average of windows": lambda p, x: (
        jax.lax.reduce_window(
            x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 1, 1), ((0, 0), (0, 0), (1, 1), (0, 0))
        )
        / 4.0
    ),
    "a sum": lambda p, x: x + jnp.flip(x, 1),
    "a constant": lambda p, x: x * p["table"] - convolution(x, p["kernel"])[..., :3],
    "a rectifier": lambda p, x: jax.nn.relu(x),
}


def floats_of(plan: Plan) -> Plain:
    """Kernels, biases and constants as the plan has them, without a compiled program."""
    hooks = Float(plan, {"params": PARAMS})

    class Numbers(Plain):
        def weight(self, graph, group, arrange, axis):
            kernel, bias = map(np.asarray, hooks.weight(group))
            return graph.array("kernel", arrange(kernel)), graph.array("bias", bias)

        def constant(self, graph, group, position, arrange):
            return graph.array("constant", arrange(np.asarray(hooks.constant(group, position))))

    return Numbers()


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_group_computes_what_the_plan_does(name: str, open_batch: bool):
    plan = planned(KINDS[name], X.shape, **PARAMS)
    x = np.concatenate([X, 2 * X]) if open_batch else X
    found = translated(plan, floats_of(plan), x, open_batch=open_batch)
    expected = in_pairs(lambda x: evaluate(plan, Float(plan, {"params": PARAMS}), x), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def rounds_otherwise(group: Group) -> bool:
    """Whether .tflite kernels, which the simulation follows, do not round to the nearest there.

    Products of two activations are rounded twice, means at each step of float32; hard-swish and leaky-relu
    are computed in fixed point.
    """
    label = group.kind.label if isinstance(group, Apply) else ""
    return isinstance(group, Product | Mean) or label in ("hard_swish", "leaky_relu")


@pytest.mark.parametrize("net", FUNCTIONS, ids=name_of)
def test_every_group_computes_what_is_simulated(net: Callable):
    plan, frozen = integer_form(artifact_of(net(), integer=True), 8)
    for group, steps in deviations(plan, frozen, IMAGES[:8]):
        assert steps.max() <= 1, group.name
        if not rounds_otherwise(group):
            assert not steps.any(), group.name


class ChannelPool(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.lax.reduce_window(
            nn.Conv(4, (1, 1))(x), -jnp.inf, jax.lax.max, (1, 1, 1, 2), (1, 1, 1, 2), "VALID"
        )
        return nn.Dense(3)(x.mean((1, 2)))


class Spread(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)))
        return nn.Dense(3)(nn.Conv(4, (3, 3))(x).mean((1, 2)))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (ChannelPool, r"windows reach over .*'reduce_window_max' in the module ChannelPool"),
        (Spread, r"pads between elements \('pad' in the module Spread\)"),
    ],
)
def test_operations_without_a_form_are_named(net: type, message: str, tmp_path: Path):
    model = from_linen(net())
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    artifact = Artifact(model, variables, ("a", "b", "c"), NORMALIZATION, SHAPE)
    with pytest.raises(ValueError, match=message):
        onnx(artifact, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_groups_that_are_new_to_it_are_named():
    """Whatever the quantizer learns is an error here until it has a form."""
    artifact = artifact_of(Residual(), integer=False)
    plan = make_plan(artifact.model, artifact.variables, artifact.input_spec(2))
    numbers = Floats(plan, artifact.variables, NORMALIZATION)
    group = plan.groups[0]
    for other in (
        Group("a", "a", group.inputs, group.outputs, group.op),
        Move("a", "a", group.inputs, group.outputs, group.op),
        Elementwise("a", "a", group.inputs, group.outputs, group.op, None),
    ):
        changed = dataclasses.replace(plan, groups=(other,))
        with pytest.raises(
            ValueError, match="no form .*'conv_general_dilated' in the module Residual/"
        ):
            translate(changed, numbers, "image", open_batch=True)
