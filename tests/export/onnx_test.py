"""ONNX files: what they answer, what they store, and what is refused."""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx as package
import onnxruntime
import pytest
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from jaxmini.compress.quantize import calibrate, make_plan, simulate
from jaxmini.compress.quantize.plan import Elementwise, Group, Move
from jaxmini.evaluate.onnx_runtime import onnx_integers, onnx_predict
from jaxmini.export import (
    Artifact,
    ParityError,
    describe_onnx,
    integer_form,
    onnx,
    onnx_parity,
    predict,
)
from jaxmini.export.distance import Distance, compare
from jaxmini.export.onnx_numbers import Floats
from jaxmini.export.onnx_ops import translate
from jaxmini.model import from_linen
from tests.compress.quantize.quantize_nets import (
    Bottlenecks,
    Branches,
    PreActivation,
    Residual,
    Shared,
    disturbed,
)
from tests.export.conftest import NORMALIZATION, Block, quantized

# The average of four pixels may be a tie, which QuantizeLinear rounds to even and .tflite kernels away from
# zero.
AVERAGING = functools.partial(Block, branches=True)


class Shapes(nn.Module):
    """Whatever moves numbers: transposes, reversals, heads, repetitions, a constant that is joined."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (3, 3), padding=((1, 0), (2, 1)), kernel_dilation=(1, 2))(x)
        x = nn.relu(nn.Conv(8, (3, 2), strides=(2, 1), feature_group_count=4)(x))
        x = jnp.swapaxes(x, 1, 2)[:, ::-1, 1:, :]
        x = jax.lax.pad(x, 0.0, ((0, 0, 0), (1, 2, 0), (0, -1, 0), (0, 0, 0)))
        x = nn.relu6(nn.Conv(6, (2, 2))(x))
        x = x.reshape(x.shape[0], -1, 6)
        token = self.param("token", nn.initializers.normal(1.0), (1, 1, 6))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 6)), x], 1)
        a, b = jnp.split(nn.Dense(8)(x), (3,), -1)
        x = nn.relu(nn.DenseGeneral((2, 3))(jnp.concatenate([b, a], -1)))
        x = nn.DenseGeneral(5, axis=(-2, -1))(x).transpose(0, 2, 1)
        mean = jnp.broadcast_to(x.mean(-1, keepdims=True), x.shape)
        x = nn.relu(x - mean) * self.param("gain", nn.initializers.normal(1.0), (1, *x.shape[1:]))
        return nn.Dense(4)(x.reshape(x.shape[0], -1)[:, ::3])


SHAPE = (12, 12, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)


class Turned(nn.Module):
    """One tensor read as it is and transposed, channels first and last; channels gated by their means."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        y = x.swapaxes(1, 2)
        z = nn.Conv(4, (3, 3))(y) + nn.Conv(4, (3, 3))(x)
        gate = nn.relu6(nn.Dense(4)(z.mean((1, 2))))[:, None, None, :]
        z = z * jnp.broadcast_to(gate, z.shape)
        rows = [nn.Dense(6)(part.reshape(part.shape[0], -1)) for part in (x, y, z)]
        return nn.Dense(4)(nn.relu(rows[0] + rows[1] - rows[2]))


NETS = [Residual, Bottlenecks, Branches, PreActivation, Shared, Shapes, Turned, Block]


def name_of(net: type) -> str:
    return getattr(net, "__name__", "Averaging")


@functools.cache
def artifact_of(module: nn.Module, *, integer: bool) -> Artifact:
    """The network with variables as after training, of which nothing is compiled."""
    model, rng = from_linen(module), np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        spread = 1 if path[-1].key == "token" else leaf.size**-0.5 * leaf.shape[-1] ** 0.5
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables = disturbed(jax.tree_util.tree_map_with_path(draw, shapes))
    logits, _ = jax.eval_shape(model.apply, variables, jnp.zeros((1, *SHAPE)))
    labels = tuple(map(str, range(logits.shape[1])))
    if integer:
        model = quantized(module)
        variables = calibrate(model, variables, [NORMALIZATION(jnp.asarray(IMAGES))])
    return Artifact(model, variables, labels, NORMALIZATION, SHAPE, {"made": "by a test"})


def distance_of(artifact: Artifact, path: Path) -> list[Distance]:
    """From the simulation, in integer kernels and in floats."""
    plan, frozen = integer_form(artifact, len(IMAGES))
    integers = (IMAGES.astype(np.int16) - 128).astype(np.int8)
    expected = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(integers))
    return [
        compare(expected, onnx_integers(path, optimized=optimized)(IMAGES))
        for optimized in (True, False)
    ]


@pytest.mark.parametrize("net", [*NETS, AVERAGING], ids=name_of)
def test_a_float_file_answers_as_the_model(net: type, tmp_path: Path):
    artifact = artifact_of(net(), integer=False)
    path = onnx(artifact, tmp_path / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    for optimized in (True, False):
        answers = onnx_predict(path, optimized=optimized)(IMAGES)
        assert np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("net", NETS, ids=name_of)
def test_an_integer_file_equals_the_simulation(net: type, tmp_path: Path):
    artifact = artifact_of(net(), integer=True)
    path = onnx(artifact, tmp_path / "net.onnx", variant="int8").path
    assert [found.largest for found in distance_of(artifact, path)] == [0, 0]
    assert len(np.unique(onnx_integers(path)(IMAGES))) > 20  # the answers say something


def test_ties_of_an_average_pool_are_within_one_step(tmp_path: Path):
    artifact = artifact_of(AVERAGING(), integer=True)
    path = onnx(artifact, tmp_path / "net.onnx", variant="int8").path
    for found in distance_of(artifact, path):
        assert found.largest <= 1
        assert found.agreement >= 0.95


@pytest.mark.parametrize("net", [Residual, Branches, Shapes], ids=name_of)
def test_every_stored_number_is_the_frozen_one(net: type, tmp_path: Path):
    artifact = artifact_of(net(), integer=True)
    model = package.load(onnx(artifact, tmp_path / "net.onnx", variant="int8").path)
    plan, frozen = integer_form(artifact)
    # The parameters of every Q and DQ are grids of the plan, and every grid is there.
    stored = {a.name: numpy_helper.to_array(a) for a in model.graph.initializer}
    nodes = {node.output[0]: node for node in model.graph.node}
    rounding = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    found = {tuple(stored[name].item() for name in node.input[1:]) for node in rounding}
    grids = {n: (float(g.scale), int(g.zero_point) + 128) for n, g in frozen.grids.items()}
    assert found | {grids["input"]} == set(grids.values())
    for node in rounding:  # each Q is read by DQs of the same grid
        for reader in (n for n in model.graph.node if node.output[0] in n.input):
            assert list(reader.input[1:]) == list(node.input[1:])
    products = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(products) == len(plan.weighted)
    for node, group in zip(products, plan.weighted, strict=True):
        kernel = nodes[node.input[1]]
        integers, scale, zero_point = (stored[name] for name in kernel.input)
        axis = {a.name: a.i for a in kernel.attribute}["axis"]
        assert integers.dtype == np.int8
        assert not zero_point.any()
        want = frozen.kernels[group.name]
        assert integers.shape[axis] == scale.size
        np.testing.assert_array_equal(scale, want.scale)
        last = np.moveaxis(integers, axis, -1)  # [I, H, W, O] of a convolution
        if integers.ndim == 4 and group.kernel is not None:
            last = np.moveaxis(last, 0, 2)
        np.testing.assert_array_equal(last.ravel(), want.kernel.ravel())
    biases = [array for array in stored.values() if array.dtype == np.int32 and array.any()]
    wanted = [kernel.bias for kernel in frozen.kernels.values() if kernel.bias.any()]
    assert sorted(a.tolist() for a in biases) == sorted(a.tolist() for a in wanted)
    constants = {bytes(sorted(a.tobytes())) for a in stored.values() if a.dtype == np.uint8}
    for constant in frozen.constants.values():  # in whatever order of axes
        integers = (constant.values.astype(np.int16) + 128).astype(np.uint8)
        assert bytes(sorted(integers.tobytes())) in constants


def retyped(array: package.TensorProto, change: Callable[[np.ndarray], None]) -> None:
    values = numpy_helper.to_array(array).copy()
    change(values)
    array.CopyFrom(numpy_helper.from_array(values, array.name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Branches/second:conv/kernel", "Branches/second:conv kernel: 432 numbers int8"),
        ("Branches/second:conv/kernel_scale", "Branches/second:conv kernel scale"),
        ("Branches/second:conv/bias", "Branches/second:conv bias: 8 numbers int32"),
        ("Branches/second:conv/bias_scale", "bias scale: it is not input scale"),
        ("Branches/second:conv/scale", r"Branches/second:conv: \(scale, zero point\) is"),
        ("scale", r"input: \(scale, zero point\) is"),
    ],
)
def test_a_changed_number_is_found(name: str, message: str, tmp_path: Path):
    artifact = artifact_of(Branches(), integer=True)
    exported = onnx(artifact, tmp_path / "net.onnx", variant="int8")
    plan, frozen = integer_form(artifact, 2)
    model = package.load(exported.path)
    assert onnx_parity.check(model, plan, frozen) == exported.parity
    assert exported.parity.kernel_integers == sum(k.kernel.size for k in frozen.kernels.values())
    (array,) = (a for a in model.graph.initializer if a.name == name)
    retyped(array, lambda values: np.multiply(values, 2, out=values, casting="unsafe"))
    with pytest.raises(ParityError, match=message):
        onnx_parity.check(model, plan, frozen)


def test_a_changed_constant_is_found(tmp_path: Path):
    artifact = artifact_of(Shapes(), integer=True)
    model = package.load(onnx(artifact, tmp_path / "net.onnx", variant="int8").path)
    (array,) = (a for a in model.graph.initializer if a.name.endswith("mul/constant"))
    retyped(array, lambda values: np.add(values, 1, out=values))
    with pytest.raises(ParityError, match="mul: constant operand 1 of it is not in the file"):
        onnx_parity.check(model, *integer_form(artifact, 2))


CONVOLUTION = st.fixed_dictionaries(
    {
        "kernel_size": st.tuples(st.integers(1, 4), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "kernel_dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "feature_group_count": st.sampled_from([1, 3]),
        "padding": st.sampled_from(["SAME", "VALID", ((2, 0), (1, 3))]),
    }
)


class Convolution(nn.Module):
    fields: dict[str, object]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Conv(6, **self.fields)(x).reshape(x.shape[0], -1)


@settings(max_examples=8)
@given(CONVOLUTION)
def test_any_convolution(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, object]):
    artifact = artifact_of(Convolution(FrozenDict(fields)), integer=False)
    path = onnx(artifact, tmp_path_factory.mktemp("file") / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    difference = np.abs(onnx_predict(path)(IMAGES) - expected).max()
    assert difference <= 1e-5 * np.abs(expected).max()


def test_the_runtime_computes_in_integers(tmp_path: Path):
    artifact = artifact_of(Bottlenecks(), integer=True)
    exported = onnx(artifact, tmp_path / "net.onnx", variant="int8")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(exported.path), options, providers=["CPUExecutionProvider"])
    ran = Counter(n.op_type for n in package.load(tmp_path / "optimized.onnx").graph.node)
    assert ran["QLinearConv"] == exported.ops["Conv"] == 14
    assert (ran["QLinearAdd"], ran["QLinearGlobalAveragePool"], ran["QGemm"]) == (3, 1, 1)
    assert (ran["QuantizeLinear"], ran["DequantizeLinear"]) == (0, 1)  # of the logits


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_batches_are_open_or_fixed(variant: str, tmp_path: Path):
    artifact = artifact_of(Shapes(), integer=variant == "int8")
    path = tmp_path / "net.onnx"
    expected = onnx_predict(onnx(artifact, path, variant=variant).path)(IMAGES)
    np.testing.assert_allclose(onnx_predict(path)(IMAGES[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    assert describe_onnx(path)["input"]["shape"] == [None, *SHAPE]
    onnx(artifact, path, variant=variant, batch=3)
    assert describe_onnx(path)["input"]["shape"] == [3, *SHAPE]
    np.testing.assert_allclose(onnx_predict(path)(IMAGES[:7]), expected[:7], rtol=1e-4, atol=1e-5)


class Mixing(nn.Module):
    """Examples stand beside one another for a while, and are told apart again."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1])
        rows = nn.Dense(4)(rows)
        return nn.Dense(2)(rows.reshape(x.shape[0], -1))


def test_what_mixes_the_batch_needs_a_fixed_one(tmp_path: Path):
    artifact = artifact_of(Mixing(), integer=False)
    with pytest.raises(
        ValueError, match=r"mixes the batch .*'reshape' in the module Mixing.*batch=1"
    ):
        onnx(artifact, tmp_path / "net.onnx")
    path = onnx(artifact, tmp_path / "net.onnx", batch=1).path
    np.testing.assert_allclose(onnx_predict(path)(IMAGES), predict(artifact)(IMAGES), atol=1e-5)


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_the_file_describes_itself(
    variant: str, float_artifact: Artifact, integer_artifact: Artifact, tmp_path: Path
):
    artifact = integer_artifact if variant == "int8" else float_artifact
    exported = onnx(artifact, tmp_path / "net.onnx", variant=variant)
    content = exported.path.read_bytes()
    assert exported.sha256 == hashlib.sha256(content).hexdigest()
    assert exported.bytes == len(content)
    again = onnx(artifact, tmp_path / "again.onnx", variant=variant)
    assert again.sha256 == exported.sha256
    assert not list(tmp_path.glob("*.partial"))
    model = package.load_model_from_string(content)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert exported.ops == Counter(node.op_type for node in model.graph.node)
    description = describe_onnx(content)
    assert description["labels"] == list(artifact.labels)
    assert description["normalization"] == {"mean": NORMALIZATION.mean, "std": NORMALIZATION.std}
    assert description["provenance"] == {"made": "by a test"}
    assert description["input"]["dtype"] == "uint8"
    assert ("scale" in description["output"]) == (variant == "int8")


class LayerNorm(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.LayerNorm(name="norm")(x.mean((1, 2))))


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
        (LayerNorm, r"'\w+' in the module LayerNorm/norm"),
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


def test_impossible_exports_are_refused(
    float_artifact: Artifact, integer_artifact: Artifact, tmp_path: Path
):
    path = tmp_path / "net.onnx"
    with pytest.raises(ValueError, match=r"unknown variant 'int-8'.*did you mean 'int8'"):
        onnx(integer_artifact, path, variant="int-8")
    with pytest.raises(ValueError, match="needs a quantized model"):
        onnx(float_artifact, path, variant="int8")
    with pytest.raises(ValueError, match="export it as variant='int8'"):
        onnx(integer_artifact, path)
    with pytest.raises(ValueError, match="batch is 0"):
        onnx(float_artifact, path, batch=0)
    assert not path.exists()


def test_files_that_are_none_are_refused(float_artifact: Artifact, tmp_path: Path):
    content = onnx(float_artifact, tmp_path / "net.onnx").path.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut.onnx: not an .onnx file, damaged"):
        describe_onnx(cut)
    model = package.load_model_from_string(content)
    del model.metadata_props[:]
    with pytest.raises(ValueError, match="holds no 'jaxmini' metadata"):
        describe_onnx(model.SerializeToString())
    model.metadata_props.add(key="jaxmini", value="{")
    with pytest.raises(ValueError, match="metadata is damaged"):
        describe_onnx(model.SerializeToString())
    with pytest.raises(FileNotFoundError):
        describe_onnx(tmp_path / "nothing.onnx")
