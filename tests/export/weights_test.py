from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxmini.evaluate.interpreter import LITERT, Kernels
from jaxmini.evaluate.runtime import tflite_predict
from jaxmini.export import Artifact, litert, predict, tflite
from jaxmini.export.flatbuffer import File, Tensor, load, read
from jaxmini.export.weights import SMALLEST_RANGE, as_dynamic_int8, as_float16
from jaxmini.model import from_linen
from tests.export.conftest import make
from tests.export.tampering import change, edited, find

VARIANTS = ["float16", "dynamic_int8"]
BOUNDS = {"float16": 2e-3, "dynamic_int8": 2e-2}


class Wide(nn.Module):
    """Kernels of each kind on either side of the 1024 weights from which int8 is worth it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(48, (3, 3), strides=2)(x))
        x = nn.relu(nn.Conv(48, (3, 3), feature_group_count=48)(x))  # small
        x = nn.relu(nn.Conv(128, (1, 1))(x))
        x = nn.relu6(nn.Conv(128, (3, 3), feature_group_count=128)(x))
        x = nn.relu(nn.Dense(256)(x.max((1, 2))))
        x = x * self.param("gain", nn.initializers.ones, (1024,))[:256].reshape(1, 256)
        x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(x)  # small


@pytest.fixture(scope="module")
def artifact(images: np.ndarray) -> Artifact:
    return make(from_linen(Wide()), images)


@pytest.fixture(scope="module")
def files(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        variant: tflite(
            artifact, folder / variant, variant=variant, backend="litert"
        ).path.read_bytes()
        for variant in ["float32", *VARIANTS]
    }


def stored(file: File, dtype: type) -> dict[str, np.ndarray]:
    return {t.name: t.data for t in file.tensors if t.data is not None and t.dtype == dtype}


@pytest.mark.parametrize("kernels", LITERT)
@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_are_those_of_the_float_model(
    variant: str, kernels: Kernels, files: dict[str, bytes], artifact: Artifact, images: np.ndarray
):
    expected = np.asarray(predict(artifact)(images))
    answers = tflite_predict(files[variant], kernels=kernels)(images)
    assert 0 < np.abs(answers - expected).max() <= BOUNDS[variant] * np.abs(expected).max()
    assert (answers.argmax(-1) == expected.argmax(-1)).mean() >= 0.95


def test_every_float_constant_becomes_its_half(files: dict[str, bytes]):
    wide, half = read(files["float32"]), read(files["float16"])
    constants = stored(wide, np.float32)
    assert not stored(half, np.float32)
    halves = stored(half, np.float16)
    assert halves.keys() == constants.keys()
    for name, values in constants.items():
        np.testing.assert_array_equal(halves[name], values.astype(np.float16))
    assert half.op_counts == {"DEQUANTIZE": len(constants)} | wide.op_counts


def test_large_kernels_become_int8_with_a_scale_a_channel(files: dict[str, bytes]):
    wide, narrow = read(files["float32"]), read(files["dynamic_int8"])
    kernels = [(48, 3, 3, 3), (64, 256), (128, 1, 1, 48), (1, 3, 3, 128), (256, 128)]
    integers = [t for t in narrow.tensors if t.dtype == np.int8]
    assert sorted(t.shape for t in integers) == sorted(kernels)
    weights = stored(wide, np.float32)
    for tensor in integers:
        assert tensor.axis == (3 if tensor.shape[0] == 1 else 0)
        assert tensor.scale.size == tensor.shape[tensor.axis]
        assert not tensor.zero_point.any()
        integer = np.moveaxis(tensor.data, tensor.axis, -1).astype(np.float64)
        weight = np.moveaxis(weights[tensor.name], tensor.axis, -1)
        assert (np.abs(integer).reshape(-1, tensor.scale.size).max(0) == 127).all()
        assert (np.abs(integer * tensor.scale - weight) <= 0.5001 * tensor.scale).all()
    assert narrow.op_counts == wide.op_counts
    rest = stored(narrow, np.float32)
    assert rest.keys() == weights.keys() - {t.name for t in integers}
    for name, values in rest.items():
        np.testing.assert_array_equal(values, weights[name])


@pytest.mark.parametrize(
    ("variant", "least", "most"), [("float16", 0.5, 0.6), ("dynamic_int8", 0.25, 0.4)]
)
def test_files_shrink(variant: str, least: float, most: float, files: dict[str, bytes]):
    assert least < len(files[variant]) / len(files["float32"]) < most


# XNNPACK has no depthwise convolution of float activations and an int8 kernel.
@pytest.mark.parametrize(
    ("variant", "dtype", "left"), [("float16", np.float16, 0), ("dynamic_int8", np.int8, 1)]
)
def test_xnnpack_takes_the_weights(variant: str, dtype: type, left: int, files: dict[str, bytes]):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=files[variant])
    interpreter.allocate_tensors()
    ops = interpreter._get_ops_details()
    fed = {index for op in ops if op["op_name"] == "DELEGATE" for index in op["inputs"]}
    file = read(files[variant])
    weights = {index for index, tensor in enumerate(file.tensors) if tensor.dtype == dtype}
    assert len(weights - fed) == left
    assert all(file.tensors[index].shape[0] == 1 for index in weights - fed)


def test_a_file_without_large_kernels_stays_byte_for_byte(convert: Callable):
    content = Path(convert("float32", "litert").path).read_bytes()
    assert as_dynamic_int8(content) == content


def test_a_file_without_float_constants_stays_byte_for_byte(integer_bytes: bytes):
    assert as_float16(integer_bytes) == integer_bytes
    assert as_dynamic_int8(integer_bytes) == integer_bytes


def with_weight(content: bytes, value: float) -> bytes:
    """The file with one weight of its first convolution set."""

    def edit(model: Any, graph: Any) -> None:
        change(model, graph.tensors[find(model, "CONV_2D").inputs[1]], 0, value, np.float32)

    return edited(content, edit)


@pytest.mark.parametrize("value", [65505.0, -1e30])
def test_numbers_beyond_float16_are_refused(value: float, files: dict[str, bytes]):
    with pytest.raises(ValueError, match=r"float16 reaches 65504.*variant='float32'"):
        as_float16(with_weight(files["float32"], value))


@pytest.mark.parametrize("value", [-np.finfo(np.float32).max, 65504.0])
def test_infinity_of_a_mask_is_the_largest_half(value: float, files: dict[str, bytes]):
    halves = stored(read(as_float16(with_weight(files["float32"], value))), np.float16)
    largest = {float(array.flat[np.abs(array).argmax()]) for array in halves.values()}
    assert np.copysign(65504.0, value) in largest


def test_channels_of_zeros_have_a_scale(files: dict[str, bytes], images: np.ndarray):
    def edit(model: Any, graph: Any) -> None:
        kernel = graph.tensors[find(model, "CONV_2D").inputs[1]]
        for weight in range(27):
            change(model, kernel, weight, 0.0, np.float32)

    content = as_dynamic_int8(edited(files["float32"], edit))
    file = read(content)
    (kernel,) = (t for t in file.tensors if t.shape == (48, 3, 3, 3))
    assert kernel.scale[0] == SMALLEST_RANGE / np.float32(127)
    assert not kernel.data[0].any()
    assert np.isfinite(tflite_predict(content)(images[:2])).all()


WEIGHTS = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)


def layers(function: Callable[[jax.Array], jax.Array]) -> bytes:
    """The file of a function of an image's 32 channels."""
    image = jax.ShapeDtypeStruct((1, 4, 4, 32), jnp.float32)
    return litert.convert(lambda image: function(image.max((1, 2))), image)


def test_a_kernel_of_two_layers_is_stored_once():
    file = read(as_dynamic_int8(layers(lambda x: nn.relu(x @ WEIGHTS) @ WEIGHTS)))
    first, second = (op.inputs[1] for op in file.ops if op.name == "FULLY_CONNECTED")
    assert first == second
    assert file.tensors[first].dtype == np.int8


def test_a_kernel_that_a_product_reads_too_stays_float():
    content = layers(lambda x: x @ WEIGHTS + (WEIGHTS.T * x).sum(1).reshape(1, 32))
    first, second = (op for op in read(content).ops if op.name in ("FULLY_CONNECTED", "MUL"))
    assert set(first.inputs) & set(second.inputs) - {-1}
    assert as_dynamic_int8(content) == content


def test_a_tensor_that_shares_a_buffer_keeps_its_numbers(files: dict[str, bytes]):
    def add_twin(model: Any, graph: Any) -> None:
        kernel = graph.tensors[find(model, "CONV_2D").inputs[1]]
        twin = type(kernel)()
        twin.name, twin.shape, twin.buffer = b"twin", kernel.shape, kernel.buffer
        graph.tensors.append(twin)

    twins = edited(files["float32"], add_twin)
    expected = stored(read(twins), np.float32)["twin"]
    for content in (as_float16(twins), as_dynamic_int8(twins)):
        np.testing.assert_array_equal(stored(read(content), np.float32)["twin"], expected)


@pytest.mark.parametrize("convert_weights", [as_float16, as_dynamic_int8])
def test_not_a_file_is_refused(convert_weights: Callable[[bytes], bytes]):
    with pytest.raises(ValueError, match="not a .tflite file"):
        convert_weights(b"something else entirely")


def form(content: bytes) -> list[tuple]:
    """Operators with their versions, options and operands, the halves seen through DEQUANTIZE."""
    model, file, described = load(content), read(content), []
    for schema_op, op in zip(model.subgraphs[0].operators, file.ops, strict=True):
        sources = [file.producer(index) for index in op.inputs]
        narrow = [
            source.inputs[0] if source is not None and source.name == "DEQUANTIZE" else index
            for index, source in zip(op.inputs, sources, strict=True)
        ]
        asymmetric = getattr(schema_op.builtinOptions, "asymmetricQuantizeInputs", None)
        version = model.operatorCodes[schema_op.opcodeIndex].version
        operands = [operand(file.tensors[index]) for index in narrow]
        described.append((op.name, version, asymmetric, op.activation, operands))
    # The order of the DEQUANTIZEs is no part of the form.
    return sorted(described[: file.op_counts.get("DEQUANTIZE", 0)], key=repr) + [
        entry for entry in described if entry[0] != "DEQUANTIZE"
    ]


def operand(tensor: Tensor) -> tuple:
    values = None if tensor.data is None else tensor.data.tobytes()
    grid = (tensor.scale.tolist(), tensor.zero_point.tolist(), tensor.axis)
    return tensor.dtype, tensor.shape, grid, values


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_form_is_that_of_tensorflow(
    variant: str, files: dict[str, bytes], artifact: Artifact, tmp_path: Path
):
    theirs = tflite(artifact, tmp_path / "theirs", variant=variant, backend="jax2tf")
    assert form(files[variant]) == form(theirs.path.read_bytes())
    assert read(files[variant]).op_counts == theirs.ops
