"""Files of integer kernels and float operators hold what was trained, and compute it."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress import quantize as q
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.evaluate.parity import file_parity
from jaxmini.evaluate.runtime import Kernels, tflite_predict
from jaxmini.export import (
    Artifact,
    ConstraintError,
    Exported,
    Layout,
    ParityError,
    describe_file,
    flatbuffer,
    float_kernels,
    integer_file,
    integer_form,
    litert,
    load_stablehlo,
    onnx,
    predict,
    stablehlo,
    tflite,
    weights_only_file,
    weights_only_form,
)
from jaxmini.export.weights import as_dynamic_int8
from jaxmini.model import from_linen
from tests.compress.quantize.quantize_nets import Attention, Gates
from tests.export.conftest import LABELS, Block, make
from tests.export.tampering import change, edited, find

EVERY_KERNELS = [Kernels.XNNPACK, Kernels.REFERENCE, Kernels.OPTIMIZED]
FOUR = q.weights_only(q.per_channel(bits=4))
MIXED = q.weights_only(
    rules=(
        q.rule("Dense_0", kernel=q.per_tensor(bits=4)),
        q.rule("Conv_1", kernel=q.lsq_per_channel(bits=3)),
    )
)
PACKED = Layout(int4=True)
ALL = Layout(input="uint8", batch=3, int4=True, embedding="Dense_0", task_metadata=True)

# What is made of what: the network, its scheme, the layout.
MADE = {
    "convolutions": (Block(), q.weights_only(), Layout()),
    "four": (Block(), FOUR, Layout()),
    "packed": (Block(), FOUR, PACKED),
    "mixed": (Block(), MIXED, PACKED),
    "silent": (Block(silent=True), q.weights_only(), Layout()),
    "branches": (Block(branches=True), q.weights_only(), Layout()),
    "transformer": (Attention(10), q.weights_only(), Layout()),
    "packed transformer": (Attention(10), FOUR, PACKED),
    "gates": (Gates(10), q.weights_only(q.per_tensor()), Layout()),
    "all at once": (Block(), FOUR, ALL),
}
FILES = [
    *((name, "litert") for name in MADE),
    *(
        pytest.param(name, "jax2tf", marks=pytest.mark.slow)
        for name in (
            "mixed",
            "convolutions",
            "silent",
            "branches",
            "transformer",
            "gates",
            "all at once",
        )
    ),
]


@functools.cache
def artifact_of(name: str) -> Artifact:
    module, scheme, _ = MADE[name]
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    model = q.quantize(from_linen(module), scheme)
    made = make(model, images)
    calibrated = q.calibrate(model, made.variables, [jnp.zeros((1, 8, 8, 3))])
    return dataclasses.replace(made, variables=calibrated)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    """(name, backend) -> the file; each is converted once."""
    folder = tmp_path_factory.mktemp("weights_only")

    @functools.cache
    def exported(name: str, backend: str = "litert") -> Exported:
        path = folder / f"{name}.{backend}.tflite"
        return tflite(
            artifact_of(name), path, variant="weights_only", backend=backend, layout=MADE[name][2]
        )

    return exported


@pytest.mark.parametrize("kernels", EVERY_KERNELS)
@pytest.mark.parametrize(("name", "backend"), FILES)
def test_the_file_computes_what_the_trained_network_computes(
    name: str, backend: str, kernels: Kernels, written: Callable, images: np.ndarray
):
    answers = tflite_predict(written(name, backend).path, kernels=kernels)(images)
    expected = np.asarray(predict(artifact_of(name))(images))
    assert np.abs(answers - expected).max() <= 2e-5 * np.abs(expected).max()
    exact = from_linen(MADE[name][0])
    floats = q.floats_of(artifact_of(name).variables)
    inputs = artifact_of(name).normalization(jnp.asarray(images))
    apart = np.abs(jax.jit(lambda v, x: exact.apply(v, x)[0])(floats, inputs) - expected).max()
    assert apart > 20 * np.abs(answers - expected).max()  # the roundings are seen


@pytest.mark.parametrize(("name", "backend"), FILES)
def test_the_file_stores_the_frozen_numbers(name: str, backend: str, written: Callable):
    exported = written(name, backend)
    plan, frozen = weights_only_form(artifact_of(name), MADE[name][2].batch)
    assert exported.parity.groups == len(plan.weighted)
    kernels = frozen.kernels.values()
    assert exported.parity.kernel_integers == sum(kernel.kernel.size for kernel in kernels)
    assert exported.parity.bias_floats == sum(kernel.bias.size for kernel in kernels)
    file = flatbuffer.read(exported.path)
    integers = [t for t in file.tensors if t.is_quantized]
    assert all(tensor.data is not None for tensor in integers)
    stored = {tensor.data.tobytes() for tensor in integers}
    ours = {
        np.moveaxis(kernel.kernel, -1, axis).tobytes() for kernel in kernels for axis in (0, -1)
    }
    assert stored <= ours
    readers = {
        op.name for op in file.ops for i in op.inputs if i >= 0 if file.tensors[i] in integers
    }
    assert readers == {"DEQUANTIZE"}
    assert describe_file(exported.path)["variant"] == "weights_only"


def test_both_back_ends_store_the_same_integers(written: Callable):
    stored = [
        sorted(
            t.data.tobytes()
            for t in flatbuffer.read(written("mixed", b).path).tensors
            if t.is_quantized
        )
        for b in ("jax2tf", "litert")
    ]
    assert stored[0] == stored[1]


def test_kernels_of_four_bits_are_packed_whatever_their_operator(written: Callable):
    whole, packed = (flatbuffer.read(written(name).path) for name in ("four", "packed"))
    assert {t.bits for t in whole.tensors if t.is_quantized} == {8}
    assert {t.bits for t in packed.tensors if t.is_quantized} == {4}
    sizes = [sum(t.stored_bytes for t in f.tensors if t.is_quantized) for f in (whole, packed)]
    assert sizes[0] == 2 * sizes[1]
    kernels = describe_file(written("mixed").path)["kernels"]
    assert kernels == {
        "Block/Conv_0:conv": "int8",
        "Block/Conv_1:conv": "int4",
        "Block/Conv_2:conv": "int8",
        "Block/Dense_0:dense": "int4",
    }
    assert "kernels" not in describe_file(written("four").path)


class Wide(nn.Module):
    """Kernels so large that they are nearly all of the file."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Conv(64, (3, 3))(x))
        x = nn.relu(nn.Conv(128, (3, 3), 2)(x))
        return nn.Dense(len(LABELS))(nn.relu(nn.Dense(256)(x.mean((1, 2)))))


def test_the_file_is_a_quarter_and_an_eighth(tmp_path: Path, images: np.ndarray):
    sizes = {}
    for name, scheme, layout in (
        ("float32", None, Layout()),
        ("int8", q.weights_only(), Layout()),
        ("int4", FOUR, PACKED),
    ):
        model = from_linen(Wide())
        artifact = make(model if scheme is None else q.quantize(model, scheme), images)
        variant = "float32" if scheme is None else "weights_only"
        sizes[name] = tflite(
            artifact, tmp_path / name, variant=variant, backend="litert", layout=layout
        ).bytes
    assert 0.25 < sizes["int8"] / sizes["float32"] < 0.28
    assert 0.125 < sizes["int4"] / sizes["float32"] < 0.155


def test_a_second_signature_gives_what_the_head_takes(written: Callable, images: np.ndarray):
    path = written("all at once").path
    vectors = tflite_predict(path, signature="embedding")(images[:4])
    head = artifact_of("all at once")
    _, frozen = weights_only_form(head, 3)
    kernel = frozen.kernels["Block/Dense_0:dense"]
    answers = vectors @ kernel.float_kernel + kernel.float_bias
    np.testing.assert_allclose(tflite_predict(path)(images[:4]), answers, rtol=1e-4, atol=1e-5)


def test_a_network_of_tokens_takes_what_its_model_takes():
    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, tokens: jax.Array) -> jax.Array:
            x = nn.Embed(11, 8)(tokens)
            x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
            return nn.Dense(5)(nn.gelu(x, approximate=False).mean(1))

    model, tokens = q.quantize(from_linen(Tokens()), FOUR), jnp.arange(6)[None] % 11
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    plan = q.make_plan(model, variables, tokens)
    content, compared = weights_only_file(plan, q.freeze(plan, variables), "litert", PACKED)
    assert compared.groups == 5
    for kernels in EVERY_KERNELS:
        answer = Interpreter(content, kernels=kernels).run(np.asarray(tokens, np.int32))
        np.testing.assert_allclose(answer, model.apply(variables, tokens)[0], rtol=1e-4, atol=1e-5)


def test_the_comparison_of_a_file_knows_its_numbers(written: Callable, images: np.ndarray):
    found = file_parity(artifact_of("packed"), written("packed").path, images)
    assert found.stored.differences == ()
    assert found.stored.compared == written("packed").parity
    assert all(answers.agreement == 1 for answers in found.answers.values())


def test_a_program_of_the_network_answers_as_it_does(tmp_path: Path, images: np.ndarray):
    artifact = artifact_of("convolutions")
    answers = load_stablehlo(stablehlo(artifact, tmp_path / "program"))(images[:4])
    np.testing.assert_allclose(answers, predict(artifact)(images[:4]), rtol=1e-4, atol=1e-5)


# -- what a wrong converter would leave


def kernel_tensor(model, graph, which=0):
    return graph.tensors[find(model, "DEQUANTIZE", which).inputs[0]]


def test_a_changed_number_is_found(written: Callable):
    content = Path(written("convolutions").path).read_bytes()
    form = weights_only_form(artifact_of("convolutions"))
    float_kernels.check(content, *form)

    def integer(model, graph):
        tensor = kernel_tensor(model, graph)
        change(model, tensor, 3, (int(model.buffers[tensor.buffer].data[3]) + 1) % 100)

    def scale(model, graph):
        kernel_tensor(model, graph).quantization.scale[1] *= 1.5

    def bias(model, graph):
        change(model, graph.tensors[find(model, "CONV_2D").inputs[2]], 0, 9.0, np.float32)

    for edit, message in (
        (integer, "kernel: 1 of 216 differ, the first at"),
        (scale, "scale: 1 of .* differ, the first at 1"),
        (bias, "bias: 1 of 8 differ, the first at 0: 9.0"),
    ):
        with pytest.raises(ParityError, match=message):
            float_kernels.check(edited(content, edit), *form)


def test_a_missing_layer_and_one_too_many_are_found(written: Callable):
    form = weights_only_form(artifact_of("convolutions"))
    other = written("branches").path
    with pytest.raises(ParityError, match="CONV_2D: its kernel is none of the frozen network's"):
        float_kernels.check(other, *form)
    form = weights_only_form(artifact_of("branches"))
    with pytest.raises(ParityError, match="no operator of the file has its kernel"):
        float_kernels.check(written("convolutions").path, *form)


def test_a_file_that_rounds_activations_as_it_runs_is_refused(images: np.ndarray):
    artifact = make(q.quantize(from_linen(Wide()), q.weights_only()), images)
    form = weights_only_form(artifact)
    floats = litert.convert(lambda x: predict_float(artifact, x), artifact.input_spec(1))
    with pytest.raises(ConstraintError, match="reads the integers of"):
        float_kernels.check(as_dynamic_int8(floats), *form)


def predict_float(artifact: Artifact, x: jax.Array) -> jax.Array:
    return from_linen(Wide()).apply(artifact.variables, x)[0]


# -- what cannot be asked for


def test_impossible_exports_are_refused(
    float_artifact: Artifact, integer_artifact: Artifact, tmp_path: Path
):
    path, ours = tmp_path / "x.tflite", artifact_of("convolutions")
    to_file = functools.partial(tflite, path=path, backend="litert")
    with pytest.raises(ValueError, match="this one is quantized by weights_only"):
        to_file(ours, variant="int8")
    with pytest.raises(ValueError, match="this one is quantized by weights_only"):
        onnx(ours, path, variant="int8")
    with pytest.raises(ValueError, match=r"export it as \.tflite"):
        onnx(ours, path, variant="float32")
    with pytest.raises(ValueError, match="export it as variant='weights_only'"):
        to_file(ours, variant="float16")
    with pytest.raises(ValueError, match="trained or calibrated as quantize"):
        to_file(float_artifact, variant="weights_only")
    with pytest.raises(ValueError, match="activations are rounded too: export it as .*'int8'"):
        to_file(integer_artifact, variant="weights_only")
    with pytest.raises(ValueError, match="'weights_only' is float32 or uint8, not 'int8'"):
        to_file(ours, variant="weights_only", layout=Layout(input="int8"))
    with pytest.raises(ValueError, match="no kernel of the network has at most 4 bits"):
        to_file(ours, variant="weights_only", layout=PACKED)
    assert not path.exists()


def test_plans_of_another_kind_or_batch_are_refused(integer_artifact: Artifact):
    form = weights_only_form(artifact_of("convolutions"))
    with pytest.raises(ValueError, match="batch is 2, and the plan is for 1"):
        weights_only_file(*form, "litert", Layout(batch=2))
    with pytest.raises(ValueError, match="write it by integer_file"):
        weights_only_file(*integer_form(integer_artifact), "litert")
    with pytest.raises(ValueError, match="write it by weights_only_file"):
        integer_file(*form, "litert")


class Moved(nn.Module):
    """Bounds that no grid's ends hold, and phases of a transposed convolution that are moved."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = jnp.clip(nn.ConvTranspose(8, (3, 3), (2, 2))(x), -0.3, 0.4)
        return nn.Dense(len(LABELS))(jnp.minimum(nn.Dense(8)(x.mean((1, 2))), 0.05))


def test_bounds_and_moves_are_kept(tmp_path: Path, images: np.ndarray):
    artifact = make(q.quantize(from_linen(Moved()), q.weights_only()), images)
    path = tmp_path / "moved.tflite"
    tflite(artifact, path, variant="weights_only", backend="litert")
    expected = np.asarray(predict(artifact)(images))
    np.testing.assert_allclose(tflite_predict(path)(images), expected, rtol=1e-4, atol=1e-5)
    floats = q.floats_of(artifact.variables)
    exact = from_linen(Moved()).apply(floats, artifact.normalization(jnp.asarray(images)))[0]
    assert np.abs(exact - expected).max() < 0.05 * np.abs(exact).max()
