"""ONNX files of transformers and gated nets: their answers, each of their groups, and what is refused."""

import functools
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx as package
import pytest

from jaxmini.compress.quantize import float_island, int8, make_plan, simulate
from jaxmini.compress.quantize.functions import Apply
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.plan import Group
from jaxmini.compress.quantize.products import Product
from jaxmini.compress.quantize.transform import calibrate, quantize
from jaxmini.evaluate.onnx_runtime import onnx_integers, onnx_latency, onnx_predict
from jaxmini.export import Artifact, describe_onnx, integer_form, onnx, onnx_file, predict
from jaxmini.export.distance import compare
from jaxmini.model import from_linen
from tests.export.conftest import NORMALIZATION
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import FUNCTIONS, IMAGES, SHAPE, TOKENS, artifact_of, name_of, text

# Steps between the logits of a file and those simulated: a step of one group travels.
MOST = {"Attention": 3, "vit_tiny": 3}


def rounds_otherwise(group: Group) -> bool:
    """Whether .tflite kernels, which the simulation follows, do not round to the nearest there.

    Products of two activations are rounded twice; hard-swish and leaky-relu are computed in fixed point.
    """
    label = group.kind.label if isinstance(group, Apply) else ""
    return isinstance(group, Product) or label in ("hard_swish", "leaky_relu")


@pytest.mark.parametrize("net", FUNCTIONS, ids=name_of)
def test_a_float_file_answers_as_the_model(net: Callable, tmp_path: Path):
    artifact = artifact_of(net(), integer=False)
    path = onnx(artifact, tmp_path / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    for optimized in (True, False):
        answers = onnx_predict(path, optimized=optimized)(IMAGES)
        assert np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("net", FUNCTIONS, ids=name_of)
def test_an_integer_file_is_near_the_simulation(net: Callable, tmp_path: Path):
    artifact = artifact_of(net(), integer=True)
    path = onnx(artifact, tmp_path / "net.onnx", variant="int8").path
    plan, frozen = integer_form(artifact, len(IMAGES))
    integers = (IMAGES.astype(np.int16) - 128).astype(np.int8)
    expected = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(integers))
    for optimized in (True, False):
        found = compare(expected, onnx_integers(path, optimized=optimized)(IMAGES))
        assert found.largest <= MOST.get(name_of(net), 1)
        assert found.agreement >= 0.95


@pytest.mark.parametrize("net", FUNCTIONS, ids=name_of)
def test_every_group_computes_what_is_simulated(net: Callable):
    plan, frozen = integer_form(artifact_of(net(), integer=True), 8)
    for group, steps in deviations(plan, frozen, IMAGES[:8]):
        assert steps.max() <= 1, group.name
        if not rounds_otherwise(group):
            assert not steps.any(), group.name


def token_file(*, integer: bool, open_batch: bool = True) -> bytes:
    model, variables, plan, frozen = text()
    if integer:
        return onnx_file(plan, frozen, open_batch=open_batch)[0]
    content, compared = onnx_file(make_plan(model, variables, TOKENS), variables)
    assert compared is None
    return content


def test_a_file_of_tokens_answers_as_the_network():
    model, variables, plan, frozen = text()
    expected = np.asarray(jax.jit(model.apply)(variables, TOKENS)[0])
    content = token_file(integer=False)
    np.testing.assert_allclose(onnx_predict(content)(TOKENS), expected, rtol=1e-4, atol=1e-5)
    assert describe_onnx(content)["input"] == {
        "name": "tokens",
        "shape": [None, 6],
        "dtype": "int32",
        "encoding": "token",
    }
    simulated = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(TOKENS))
    content = token_file(integer=True)
    for optimized in (True, False):
        found = compare(simulated, onnx_integers(content, optimized=optimized)(TOKENS))
        assert found.largest <= 1
        assert found.agreement == 1
    for group, steps in deviations(plan, frozen, TOKENS):
        assert steps.max() <= 1, group.name


@pytest.mark.parametrize("integer", [True, False])
def test_numbers_outside_a_table_read_its_ends(integer: bool):
    run = onnx_predict(token_file(integer=integer))
    outside = np.where(TOKENS == 0, -5, np.where(TOKENS == 10, 99, TOKENS)).astype(np.int32)
    np.testing.assert_array_equal(run(outside), run(TOKENS))


def test_a_plan_s_own_batch_may_be_kept():
    content, expected = token_file(integer=True, open_batch=False), token_file(integer=True)
    assert describe_onnx(content)["input"]["shape"] == [24, 6]
    np.testing.assert_array_equal(
        onnx_integers(content)(TOKENS[:5]), onnx_integers(expected)(TOKENS[:5])
    )


def test_other_inputs_go_in_as_the_model_takes_them():
    artifact = artifact_of(FUNCTIONS[2](), integer=False)
    plan = make_plan(artifact.model, artifact.variables, artifact.input_spec(2))
    content, _ = onnx_file(plan, artifact.variables)
    pictures = np.asarray(NORMALIZATION(jnp.asarray(IMAGES)))
    np.testing.assert_allclose(
        onnx_predict(content)(pictures), predict(artifact)(IMAGES), rtol=1e-4, atol=1e-5
    )
    artifact = artifact_of(FUNCTIONS[2](), integer=True)
    content, _ = onnx_file(*integer_form(artifact, 2))
    source = describe_onnx(content)["input"]
    assert (source["dtype"], source["encoding"]) == ("uint8", "integer")
    assert source["scale"] == np.float32(NORMALIZATION.scale)
    assert source["zero_point"] == NORMALIZATION.zero_point + 128


def test_wrong_inputs_and_plans_are_refused():
    content = token_file(integer=True)
    with pytest.raises(ValueError, match=r"expected tokens int32 \[B, 6\], got int64\[24, 6\]"):
        onnx_predict(content)(TOKENS.astype(np.int64))
    with pytest.raises(ValueError, match=r"got int32\[24, 5\]"):
        onnx_integers(content)(TOKENS[:, :5])
    assert onnx_latency(content, warmup=0, runs=2).runs == 2
    model, variables, _, _ = text()
    with pytest.raises(ValueError, match="needs a plan for 2 examples or more, and this is for 1"):
        onnx_file(make_plan(model, variables, TOKENS[:1]), variables)


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
