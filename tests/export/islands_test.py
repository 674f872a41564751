"""Files of transformers and gated nets: their numbers, their answers, and float only where it is declared."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import float_island, int8, quantize, simulate
from jaxmini.compress.quantize.grid import Grid
from jaxmini.evaluate.interpreter import Kernels
from jaxmini.evaluate.operators import operator_parity
from jaxmini.evaluate.runtime import tflite_integers
from jaxmini.export import Artifact, Exported, Layout, integer_form, tflite
from jaxmini.export.constraints import ConstraintError, check_integer
from jaxmini.export.flatbuffer import constant, read
from jaxmini.export.islands import allowed, collapsed
from jaxmini.export.parity import ParityError, check
from jaxmini.model import from_linen
from jaxmini.models.vit import vit
from tests.compress.quantize.quantize_nets import Attention, Functions, Gates
from tests.export.conftest import LABELS, NORMALIZATION, make, quantized
from tests.export.tampering import edited

CLASSES = len(LABELS)
NETS = {
    "attention": Attention(CLASSES),
    "functions": Functions(CLASSES),
    "gates": Gates(CLASSES),
    "vit": vit(CLASSES, patch=4, width=16, layers=1, heads=2),
}
FLOAT = {"ADD", "BROADCAST_TO", "DEQUANTIZE", "MEAN", "MUL", "QUANTIZE", "RESHAPE", "RSQRT", "SUB"}


@pytest.fixture(scope="module")
def artifact(images: np.ndarray) -> Callable[[str], Artifact]:
    """Artifacts by net; the factors of the last norms are not those that they begin with."""

    @functools.cache
    def made(name: str) -> Artifact:
        start = make(quantized(NETS[name]), images)
        rng = np.random.default_rng(2)

        def moved(path: tuple, leaf: np.ndarray) -> np.ndarray:
            moves = jax.tree_util.keystr(path).endswith("['norm']['scale']")
            return leaf + moves * rng.normal(0, 0.2, leaf.shape).astype(np.float32)

        variables = jax.tree_util.tree_map_with_path(moved, start.variables)
        return dataclasses.replace(start, variables=variables)

    return made


@pytest.fixture(scope="module")
def file(
    artifact: Callable[[str], Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Exported]:
    folder = tmp_path_factory.mktemp("files")

    @functools.cache
    def exported(name: str, backend: str) -> Exported:
        path = folder / f"{name}.{backend}.tflite"
        return tflite(artifact(name), path, variant="int8", backend=backend)

    return exported


def bytes_of(exported: Exported) -> bytes:
    return Path(exported.path).read_bytes()


def simulated(artifact: Artifact, images: np.ndarray) -> np.ndarray:
    """What the integer file should answer."""
    plan, frozen = integer_form(artifact, len(images))
    pixels = (images.astype(np.int16) - 128).astype(np.int8)
    return np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(pixels), int)


@pytest.mark.parametrize("name", NETS)
def test_the_file_answers_as_simulated(
    name: str, artifact: Callable, file: Callable, images: np.ndarray
):
    exported, some = file(name, "litert"), images[:8]
    expected = simulated(artifact(name), some)
    answers = tflite_integers(exported.path, kernels=Kernels.XNNPACK)(some)
    in_float = name in ("attention", "vit")  # a float sum may be made in another order
    assert np.abs(np.asarray(answers, int) - expected).max() <= in_float
    plan, _ = integer_form(artifact(name))
    assert exported.parity.groups == sum(bool(group.name == group.site) for group in plan.groups)


@pytest.mark.parametrize("name", ["attention", "functions"])
def test_every_operator_computes_its_group(
    name: str, artifact: Callable, file: Callable, images: np.ndarray
):
    plan, frozen = integer_form(artifact(name))
    found = operator_parity(bytes_of(file(name, "litert")), plan, frozen, images[:2])
    compared = [op for op in found if op.group is not None]
    assert len(compared) == file(name, "litert").parity.groups
    for op in compared:
        assert op.deviation is not None, op
        assert op.deviation.largest <= (op.name in ("QUANTIZE", "SOFTMAX", "LOG_SOFTMAX")), op


def test_a_batch_repeats_the_class_token(
    artifact: Callable, file: Callable, images: np.ndarray, tmp_path: Path
):
    layout = Layout(input="uint8", output="float32", batch=3)
    path = tmp_path / "net.tflite"
    tflite(artifact("vit"), path, variant="int8", backend="litert", layout=layout)
    expected = tflite_integers(file("vit", "litert").path)(images[:7])
    np.testing.assert_array_equal(tflite_integers(path)(images[:7]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_tensorflow_stores_the_same_numbers(name: str, file: Callable):
    litert, jax2tf = file(name, "litert"), file(name, "jax2tf")
    assert litert.parity == jax2tf.parity  # and both equal the frozen network's
    for operator in ("BATCH_MATMUL", "GELU", "HARD_SWISH", "QUANTIZE", "SOFTMAX", "SELECT_V2"):
        assert litert.ops.get(operator) == jax2tf.ops.get(operator)


def test_float_is_where_it_is_declared(artifact: Callable, file: Callable):
    content = bytes_of(file("vit", "litert"))
    islands = allowed(*integer_form(artifact("vit")))
    check_integer(content, islands)
    assert [island.name for island in islands] == [
        "ViT/block0/norm0:norm",
        "ViT/block0/norm1:norm",
        "ViT/norm:norm",
    ]
    parts = {
        op.name for island in collapsed(read(content)).ops for op in getattr(island, "parts", ())
    }
    assert parts <= FLOAT
    with pytest.raises(ConstraintError, match="numbers leave the integers for .*RSQRT"):
        check_integer(content)
    with pytest.raises(ConstraintError, match="no such island is declared"):
        check_integer(content, islands[1:])
    with pytest.raises(ConstraintError, match="the island ViT/norm:norm is not in the file"):
        check_integer(content, [*islands, islands[-1]])
    narrow = dataclasses.replace(islands[0], operators=frozenset({"MUL"}))
    with pytest.raises(
        ConstraintError, match="ViT/block0/norm0:norm holds RSQRT, and may hold MUL"
    ):
        check_integer(content, [narrow, *islands[1:]])


def test_what_an_island_holds_is_compared(artifact: Callable, file: Callable):
    plan, frozen = integer_form(artifact("vit"))
    content = bytes_of(file("vit", "litert"))
    wanted = next(f for f in frozen.held(plan.islands[-1]) if not np.all(f == 1))

    def edit(model: Any, graph: Any) -> None:
        for tensor in graph.tensors:
            data = constant(model, tensor)
            if data is not None and np.array_equal(data.ravel(), wanted.ravel()):
                changed = (data + np.float32(1)).tobytes()
                model.buffers[tensor.buffer].data = np.frombuffer(changed, np.uint8)

    with pytest.raises(ParityError, match="is not in its island"):
        check(edited(content, edit), plan, frozen)


def test_a_declared_island_is_exported(images: np.ndarray, tmp_path: Path):
    grid = Grid(NORMALIZATION.scale, NORMALIZATION.zero_point)
    scheme = int8(rules=(float_island("block0/attention"),))
    artifact = make(quantize(from_linen(NETS["vit"]), scheme, input_grid=grid), images)
    exported = tflite(artifact, tmp_path / "x.tflite", variant="int8", backend="litert")
    plan, frozen = integer_form(artifact)
    assert [island.operators is None for island in allowed(plan, frozen)].count(True) == 1
    file = collapsed(read(exported.path))
    (attention,) = [
        op for op in file.ops if "SOFTMAX" in {p.name for p in getattr(op, "parts", ())}
    ]
    assert {"BATCH_MATMUL", "FULLY_CONNECTED"} <= {op.name for op in attention.inland}
    assert exported.parity.groups == sum(bool(group.name == group.site) for group in plan.groups)


class Choosing(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bright = x.mean(-1, keepdims=True) > 0
        return jnp.where(bright & (x > -1), jnp.sin(x), bright.astype(jnp.float32))


class Asking(nn.Module):
    """A choice by numbers that the model computes, inside a module of its own."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = Choosing(name="choosing")(nn.Conv(4, (3, 3), 2, name="stem")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


ACTIVATIONS = {
    "elu": nn.elu,
    "selu": nn.selu,
    "softplus": nn.softplus,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "choice": lambda x: jnp.where(x > 0.1, 3 * jnp.sin(x), x),
}


class Activated(nn.Module):
    """A function that the integers have no operator for, as an island; ``PReLU`` is a module by itself."""

    function: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(4, (3, 3), 2, name="stem")(x)
        if self.function == "prelu":
            x = nn.PReLU(name="activation")(x)
        else:
            x = Function(self.function, name="activation")(x)
        return nn.Dense(CLASSES, name="head")(nn.Conv(4, (3, 3), name="body")(x).mean((1, 2)))


class Function(nn.Module):
    name_of: str

    def __call__(self, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.name_of](x)


@pytest.mark.parametrize(
    ("function", "backend"),
    [
        *((function, "litert") for function in ("prelu", *ACTIVATIONS)),
        pytest.param("selu", "jax2tf", marks=pytest.mark.slow),
    ],
)
def test_a_function_without_an_operator_is_computed_in_an_island(
    function: str, backend: str, images: np.ndarray, tmp_path: Path
):
    """Converters would carry the integers' grid through the choice that it ends in, and round twice."""
    with pytest.raises(ValueError, match=r"float_island"):
        make(quantized(Activated(function)), images)
    artifact = make(
        quantized(Activated(function), int8(rules=(float_island("activation"),))), images
    )
    exported = tflite(artifact, tmp_path / "net.tflite", variant="int8", backend=backend)
    assert (exported.ops["DEQUANTIZE"], exported.ops["QUANTIZE"]) == (1, 1)
    np.testing.assert_array_equal(
        tflite_integers(exported.path)(images[:8]), simulated(artifact, images[:8])
    )


def test_an_island_may_ask_questions_inside(images: np.ndarray, tmp_path: Path):
    scheme = int8(rules=(float_island("choosing"),))
    artifact = make(quantized(Asking(), scheme), images)
    exported = tflite(artifact, tmp_path / "net.tflite", variant="int8", backend="litert")
    assert {"GREATER", "LOGICAL_AND"} <= exported.ops.keys()
    np.testing.assert_array_equal(
        tflite_integers(exported.path)(images[:8]), simulated(artifact, images[:8])
    )
    with pytest.raises(ConstraintError, match="numbers leave the integers for .*GREATER"):
        check_integer(bytes_of(exported))


class Beside(nn.Module):
    """Two normalisations of one value, as in blocks whose attention and layers stand side by side."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3), 2, name="stem")(x))
        one, other = (nn.Dense(4, name=f"dense{i}")(nn.LayerNorm()(x)) for i in range(2))
        return nn.Dense(CLASSES, name="head")((one + other).mean((1, 2)))


@pytest.mark.parametrize("backend", ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)])
def test_two_islands_may_have_in_common_what_converters_merge(
    backend: str, images: np.ndarray, tmp_path: Path
):
    artifact = make(quantized(Beside()), images)
    exported = tflite(artifact, tmp_path / "net.tflite", variant="int8", backend=backend)
    assert (exported.ops["DEQUANTIZE"], exported.ops["QUANTIZE"]) == (1, 2)
    answers = tflite_integers(exported.path)(images[:8])
    assert np.abs(np.asarray(answers, int) - simulated(artifact, images[:8])).max() <= 1
    islands = allowed(*integer_form(artifact))
    with pytest.raises(ConstraintError, match="no such island is declared"):
        check_integer(bytes_of(exported), islands[:1])


class Twice(nn.Module):
    """A sum that is written twice, and rectified once."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        one, other = (nn.Conv(4, (3, 3), 2, name=f"conv{i}")(x) for i in range(2))
        rest = nn.Conv(4, (1, 1), name="body")(one + other)
        return nn.Dense(CLASSES, name="head")((nn.relu(one + other) + rest).mean((1, 2)))


def test_what_converters_merge_of_two_integer_layers_is_told(images: np.ndarray, tmp_path: Path):
    artifact = make(quantized(Twice()), images)
    with pytest.raises(ConstraintError, match=r"made one of the ADD that two .* compute it once"):
        tflite(artifact, tmp_path / "net.tflite", variant="int8", backend="litert")
    assert list(tmp_path.iterdir()) == []
