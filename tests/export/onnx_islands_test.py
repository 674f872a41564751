"""ONNX islands: what stays in float is written as the model computes it, and rounded once, at its end."""

from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx as package
import pytest
from jax import lax

from jaxmini.compress.quantize import float_island, int8, integer_norm, make_plan
from jaxmini.compress.quantize.functions import OPERATORS as KNOWN
from jaxmini.compress.quantize.functions import Apply
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.plan import Group, Move
from jaxmini.compress.quantize.program import trace
from jaxmini.compress.quantize.transform import calibrate, quantize
from jaxmini.export import Artifact, integer_form, onnx
from jaxmini.export.onnx_islands import BINARY, FORMS, OPERATORS, UNARY
from jaxmini.export.onnx_layout import Tensor, Writer, channels_first
from jaxmini.export.onnx_numbers import Floats
from jaxmini.export.onnx_ops import translate
from jaxmini.model import from_linen
from tests.compress.quantize.quantize_nets import Functions
from tests.export.conftest import NORMALIZATION
from tests.export.onnx_graphs import (
    Plain,
    answers,
    in_pairs,
    inland,
    model_that,
    planned,
    translated,
)
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import IMAGES, SHAPE, artifact_of

X = np.random.default_rng(0).uniform(0.1, 2, (4, 4, 5, 3)).astype(np.float32)
SIGNED = X - 1
KERNEL = np.random.default_rng(1).normal(size=(2, 3, 3, 4)).astype(np.float32)
PIXELS = np.moveaxis(X, -1, 1)  # as they lie in the file
HALF = (2, *PIXELS.shape[1:])

# Of numbers between -0.9 and 1, or between 0.1 and 2 where that has no answer.
ONE = {name: getattr(lax, name) for name in (*UNARY, "erfc", "expm1", "log1p", "rsqrt", "square")}
TWO = {name: getattr(lax, name) for name in BINARY if name != "add_any"}
OTHERS = {
    "add_any": lambda x: jax.grad(lambda y: (jnp.sin(y) * y).sum())(x),
    "conv_general_dilated": lambda x: lax.conv_general_dilated(
        x, jnp.asarray(KERNEL), (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
    "dot_general": lambda x: jnp.einsum("bhwc,bhvc->bhwv", x, x[:, ::-1]),
    "integer_pow of 3": lambda x: lax.integer_pow(x, 3),
    "integer_pow of 1": lambda x: 2.0 * lax.integer_pow(x, 1),
    "integer_pow of -2": lambda x: lax.integer_pow(x + 2, -2),
    "reduce_sum": lambda x: x.sum((1, 3)),
    "gather": lambda x: x[:, np.array([2, 0])],
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (0, 3, 0, 0), (2, 2, 5, 3)),
    "select_n": lambda x: jnp.where(np.arange(3) == np.ones((1, 1, 1, 1)), x, 0.5),
    "tanh of gelu": jax.nn.gelu,
    "relu6": lambda x: jax.nn.relu6(x) * 2,
}


def test_every_form_is_looked_at():
    """``MOVES`` are looked at by themselves; those with known places are here too."""
    assert set(UNARY) | set(BINARY) | set(FORMS) <= {name.split()[0] for name in ONE | TWO | OTHERS}


def computes(function: Callable, x: np.ndarray, *, open_batch: bool) -> tuple[Group, ...]:
    """The one island there is, which gives what JAX does, to a step of float32 at 1."""
    plan = inland(lambda p, x: function(x), HALF)
    assert [island.name for island in plan.islands] == ["Net/inner:island"]
    x = x if open_batch else x[:2]
    found = translated(plan, Plain(), np.moveaxis(x, -1, 1), open_batch=open_batch)
    np.testing.assert_allclose(found, in_pairs(function, x), rtol=2e-6, atol=1e-6)
    return plan.islands


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name: str, open_batch: bool):
    x = X if name in ("log", "sqrt", "rsqrt") else SIGNED
    computes(ONE[name], x, open_batch=open_batch)


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name: str, open_batch: bool):
    """Of two tensors, of a tensor and a constant, and of a constant and a tensor."""
    constant = jnp.asarray(np.broadcast_to(X[:1, :1], (2, *X.shape[1:])))

    def function(x):
        return TWO[name](TWO[name](constant, TWO[name](x, x[:, ::-1])), constant[:, ::-1])

    computes(function, X, open_batch=open_batch)


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_a_form(name: str, open_batch: bool):
    (island,) = computes(OTHERS[name], SIGNED, open_batch=open_batch)
    assert name.split()[0] in {op.name for op in island.ops}


@pytest.mark.parametrize("open_batch", [False, True])
def test_what_is_held_of_the_variables_is_written(open_batch: bool):
    gain = np.float32([0.5, -1, 2]).reshape(1, 1, 1, 3)

    def function(p, x):
        return jnp.sin(x * p["gain"]) + lax.exp(p["gain"])

    plan = inland(function, HALF, gain=gain)
    x = X if open_batch else X[:2]
    numbers = Floats(plan, {"params": {"gain": gain}}, None)
    found = translated(plan, numbers, np.moveaxis(x, -1, 1), open_batch=open_batch)
    expected = in_pairs(lambda x: function({"gain": gain}, x), x)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_an_island_is_rounded_once_at_its_end():
    sites = []

    class Rounding(Plain):
        def activation(self, graph, site, values):
            sites.append(site)
            return graph.node("Round", values)

    def function(p, x):
        return (3 * jnp.sin(x)[:, ::-1].reshape(2, 20, 3) + 1).sum(1)

    plan = inland(function, HALF)
    found = translated(plan, Rounding(), PIXELS[:2], open_batch=False)
    assert sites == ["Net/inner:island"]
    np.testing.assert_array_equal(found, np.round(function({}, X[:2])))


ANSWERS = {
    "HARD_SWISH": jax.nn.hard_swish,
    "LEAKY_RELU": lambda x: jax.nn.leaky_relu(x, 0.3),
    "LOGISTIC": jax.nn.sigmoid,
    "LOG_SOFTMAX": jax.nn.log_softmax,
    "SOFTMAX": jax.nn.softmax,
    "TANH": jnp.tanh,
    "GELU": jax.nn.gelu,
}


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("name", ANSWERS)
def test_a_function_is_one_node_where_there_is_one(name: str, open_batch: bool):
    """Along the last of JAX's axes, wherever it lies in the file; GELU came after opset 17."""
    assert set(OPERATORS) | {"GELU"} == set(ANSWERS) == KNOWN - {"RSQRT"}
    plan = planned(lambda p, x: ANSWERS[name](jnp.moveaxis(x, 1, -1)), HALF)
    (group,) = (group for group in plan.groups if isinstance(group, Apply))
    assert group.kind.operator == name
    x = SIGNED if open_batch else SIGNED[:2]
    found = translated(plan, Plain(), np.moveaxis(x, -1, 1), open_batch=open_batch)
    np.testing.assert_allclose(found, in_pairs(ANSWERS[name], x), rtol=2e-6, atol=1e-6)
    writer, _ = translate(plan, Plain(), "image", open_batch=open_batch)
    kinds = [node.op_type for node in writer.graph._nodes]
    assert kinds == [OPERATORS[name]] if name != "GELU" else "Tanh" in kinds


@pytest.mark.parametrize("open_batch", [False, True])
def test_the_root_of_a_norm_in_integers_is_written(open_batch: bool):
    def norm(x):
        with jax.named_scope("Net/norm"):
            mean = x.mean(-1, keepdims=True)
            variance = ((x - mean) ** 2).mean(-1, keepdims=True)
            return (x - mean) * lax.rsqrt(variance + 1e-3)

    model = quantize(model_that(lambda p, x: norm(x)), int8(rules=(integer_norm(),)))
    plan = make_plan(model, {"params": {}}, jax.ShapeDtypeStruct((2, *X.shape[1:]), jnp.float32))
    assert {group.kind.operator for group in plan.groups if isinstance(group, Apply)} == {"RSQRT"}
    x = X if open_batch else X[:2]
    numbers = Floats(plan, {"params": {}}, None)
    found = translated(plan, numbers, x, open_batch=open_batch)
    np.testing.assert_allclose(found, in_pairs(norm, x), rtol=1e-5, atol=1e-5)


REFUSED = {
    "no form": (lambda x: jnp.cumsum(x, -1), "cumsum", "it has no form in an ONNX file"),
    "a power of 0": (lambda x: 2.0 * lax.integer_pow_p.bind(x, y=0), "integer_pow", "of 0"),
    "a computed kernel": (
        lambda x: lax.conv_general_dilated(
            x, x[0, :3, :3, :, None], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        "conv_general_dilated",
        "it has no form",
    ),
    "spread pixels": (
        lambda x: lax.conv_transpose(x, jnp.asarray(KERNEL), (2, 2), "SAME"),
        "conv_general_dilated",
        "it has no form",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_named_with_its_module_and_the_way_out(name: str):
    function, op, reason = REFUSED[name]
    plan = inland(lambda p, x: function(x), HALF)
    message = (
        rf"onnx: .*{reason}.* \('{op}' in the module Net/inner[^)]*\): "
        "(leave it out of the island, or compute it outside the model|write a 1)"
    )
    with pytest.raises(ValueError, match=message):
        translated(plan, Plain(), PIXELS[:2], open_batch=False)


def test_a_sum_over_the_batch_needs_a_fixed_one():
    """Given as it is: the quantizer takes it for statistics of a batch."""
    model = model_that(lambda params, x: x.sum(0))
    program = trace(model, {"params": {}}, jax.ShapeDtypeStruct(X[:2].shape, jnp.float32))
    (op,) = program.ops
    group = Move("sum", "input", op.inputs, op.outputs, op)
    source = Tensor("image", channels_first(4), "input")
    plan = planned(lambda p, x: x, HALF)
    writer = Writer(plan, Plain(), open_batch=True)
    with pytest.raises(
        ValueError, match=r"it adds up the batch \('reduce_sum' in the model\).*batch=1"
    ):
        FORMS["reduce_sum"](writer, group, [source])
    writer = Writer(plan, Plain(), open_batch=False)
    summed = FORMS["reduce_sum"](writer, group, [source])
    np.testing.assert_allclose(
        answers(writer, summed, PIXELS[:2], X.shape[1:]), X[:2].sum(0), rtol=1e-6
    )


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
    artifact = artifact_of(Functions(), integer=True)
    exported = onnx(artifact, tmp_path / "net.onnx", variant="int8")
    model = package.load(exported.path)
    for operator in ("HardSwish", "LogSoftmax", "Sigmoid", "Softmax"):
        assert exported.ops[operator] == 1
    assert exported.ops["Tanh"] == 2  # one of them is gelu's
    slopes = [n.attribute[0].f for n in model.graph.node if n.op_type == "LeakyRelu"]
    np.testing.assert_allclose(slopes, [0.01, 0.3], rtol=1e-6)
