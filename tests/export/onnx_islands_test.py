"""ONNX islands: declared modules as they compute, functions as operators, and what has no form there."""

from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx as package
import pytest

from jaxmini.compress.quantize import float_island, int8
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.transform import calibrate, quantize
from jaxmini.export import Artifact, integer_form, onnx
from jaxmini.model import from_linen
from tests.export.conftest import NORMALIZATION
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import FUNCTIONS, IMAGES, SHAPE, artifact_of


class Declared(nn.Module):
    """A module that stays in float: anything that ONNX has an operator for."""

    function: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(4, (3, 3), 2, name="stem")(x).reshape(x.shape[0], -1, 4)
        return nn.Dense(3, name="head")(Inner(self.function, name="inner")(x).mean(1))


class Inner(nn.Module):
    function: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(nn.Dense(4, name="dense")(x))


def everything(x: jax.Array) -> jax.Array:
    """Functions, moves, products, powers, choices, a convolution: none of it has to be int8."""
    y = nn.gelu(x, approximate=False) + jnp.log1p(jnp.exp(-jnp.abs(x))) / (1 + x**2)
    y = jnp.where(np.arange(4)[None, None] % 2 == 0, y, nn.relu(y) * nn.silu(x))
    kernel = jnp.asarray(np.linspace(-1, 1, 36, dtype=np.float32).reshape(1, 3, 3, 4))
    layout = ("NHWC", "HWIO", "NHWC")
    windows = jax.lax.conv_general_dilated(
        x[:, None, :, :3], kernel, (1, 1), ((0, 0), (2, 0)), dimension_numbers=layout
    )
    y = y + windows[:, 0]
    scores = jnp.einsum("bqd,bkd->bqk", y, x) * jax.lax.rsqrt(4.0 + x.mean(-1, keepdims=True) ** 2)
    y = jnp.concatenate([nn.softmax(scores) @ y, jnp.take(x, np.array([3, 0]), axis=-1)], -1)
    y = y.reshape(*x.shape[:2], 3, 2).transpose(0, 1, 3, 2).max(-1)
    y = jax.lax.dynamic_slice_in_dim(jnp.pad(y, ((0, 0), (0, 0), (1, 1))), 0, 3, 2)
    return (2.0 + jnp.minimum(jnp.tanh(y[..., ::-1]), nn.sigmoid(y))) ** -2


def declared(function: Callable, *islands: float_island) -> Artifact:
    module, rng = Declared(function), np.random.default_rng(0)
    grid = Grid(NORMALIZATION.scale, NORMALIZATION.zero_point)
    model = quantize(from_linen(module), int8(rules=islands), input_grid=grid)
    shapes = jax.eval_shape(from_linen(module).init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
    variables = calibrate(model, variables, [NORMALIZATION(jnp.asarray(IMAGES))])
    return Artifact(model, variables, ("a", "b", "c"), NORMALIZATION, SHAPE)


def test_a_declared_island_is_written_as_it_is(tmp_path: Path):
    artifact = declared(everything, float_island("inner"))
    exported = onnx(artifact, tmp_path / "net.onnx", variant="int8")
    plan, frozen = integer_form(artifact, 8)
    assert [group.name for group in plan.groups if isinstance(group, Island)] == [
        "Declared/inner:island"
    ]
    assert exported.parity.island_floats == 20  # the kernel and the bias
    assert exported.ops["Conv"] == 2
    assert {"Erf", "Where", "MatMul", "Sqrt", "Slice"} <= exported.ops.keys()
    for group, steps in deviations(plan, frozen, IMAGES[:8]):
        assert steps.max() <= 1, group.name


def test_what_has_no_form_in_an_island_is_named(tmp_path: Path):
    artifact = declared(lambda x: jnp.cumsum(x, -1), float_island("inner"))
    message = r"no form in an ONNX file \('cumsum' in the module Declared/inner\): leave it out of"
    with pytest.raises(ValueError, match=message):
        onnx(artifact, tmp_path / "net.onnx", variant="int8")
    assert not list(tmp_path.iterdir())


def test_functions_are_operators_of_the_runtime(tmp_path: Path):
    artifact = artifact_of(FUNCTIONS[1](), integer=True)
    exported = onnx(artifact, tmp_path / "net.onnx", variant="int8")
    model = package.load(exported.path)
    for operator in ("HardSwish", "LogSoftmax", "Sigmoid", "Softmax"):
        assert exported.ops[operator] == 1
    assert exported.ops["Tanh"] == 2  # one of them is gelu's
    slopes = [n.attribute[0].f for n in model.graph.node if n.op_type == "LeakyRelu"]
    np.testing.assert_allclose(slopes, [0.01, 0.3], rtol=1e-6)
