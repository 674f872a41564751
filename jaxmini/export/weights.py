"""Weights: the constants of a float32 file stored in fewer bits, in the form of TensorFlow's own files.

The network stays a float one, input and output as they were, so no converter and no data are needed.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

from jaxmini.export import flatbuffer

FLOAT32, FLOAT16, INT8 = 0, 1, 9  # TensorType of the schema

DEQUANTIZE_VERSION = 3  # the first that takes float16

LARGEST_FLOAT32 = np.finfo(np.float32).max
HALF_RANGE = (np.float32(-65504), np.float32(65504))

# Tells a delegate that it may multiply in half precision and add up in single.
HALF_HINT = (b"reduced_precision_support", b"fp16accfp32")

# Kernels of fewer weights stay float32: what they save is not worth the rounding.
SMALLEST_INT8_KERNEL = 1024

# A channel whose weights are all nearer to zero has the scale of one that reaches this far.
SMALLEST_RANGE = np.float32(5e-7)


class _Hybrid(NamedTuple):
    """How an operator takes an int8 kernel beside float activations.

    Attributes:
        axis: dimension of the kernel's output channels.
        version: the first with one scale a channel.
    """

    axis: int
    version: int


HYBRID = {
    "CONV_2D": _Hybrid(axis=0, version=5),
    "DEPTHWISE_CONV_2D": _Hybrid(axis=3, version=6),
    "FULLY_CONNECTED": _Hybrid(axis=0, version=12),
}
KERNEL = 1  # which input of a hybrid operator the kernel is


class _Reader(NamedTuple):
    """An operator that reads a constant, and as which of its inputs."""

    op: Any
    position: int


def as_float16(content: bytes) -> bytes:
    """The file with every float32 constant stored as float16, and widened by DEQUANTIZE for its readers.

    The form is that of TensorFlow's converter with ``supported_types = [float16]``.

    Args:
        content: the bytes of a float32 .tflite file of one subgraph.

    Returns:
        The bytes of the new file; those given where nothing reads a float32 constant.

    Raises:
        ValueError: not such a file, or a constant other than a mask's infinity is beyond 65504.
    """
    model, constants = _load(content)
    if not constants:
        return content
    graph, code = model.subgraphs[0], _add_dequantize_code(model)
    widenings = []
    for index, readers in constants.items():
        wide = _add_wide(graph, graph.tensors[index])
        for reader in readers:
            reader.op.inputs[reader.position] = wide
        widenings.append(_dequantize(code, index, wide))
        _store(model, graph.tensors[index], FLOAT16, _halves(model, graph.tensors[index]))
    graph.operators = widenings + graph.operators
    _add_half_hint(model)
    return flatbuffer.dump(model)


def as_dynamic_int8(content: bytes) -> bytes:
    """The file with its larger kernels stored as int8, for kernels that quantize activations as they run.

    The form is that of TensorFlow's dynamic-range quantization: kernels of at least 1024 weights,
    symmetric, one scale an output channel; biases and all else stay float32.

    Args:
        content: the bytes of a float32 .tflite file of one subgraph.

    Returns:
        The bytes of the new file; those given where no kernel is that large.

    Raises:
        ValueError: not such a file.
    """
    model, constants = _load(content)
    kernels = {
        index: readers
        for index, readers in constants.items()
        if _is_kernel(model, model.subgraphs[0].tensors[index], readers)
    }
    if not kernels:
        return content
    for index, readers in kernels.items():
        hybrid = HYBRID[flatbuffer.op_name(model, readers[0].op)]
        _store_int8(model, model.subgraphs[0].tensors[index], hybrid.axis)
        for reader in readers:
            _make_hybrid(model, reader.op, hybrid.version)
    return flatbuffer.dump(model)


def _load(content: bytes) -> tuple[Any, dict[int, list[_Reader]]]:
    """The mutable model and its float32 constants: the tensor's index -> who reads it."""
    flatbuffer.read(content)  # refuses what is damaged or of several subgraphs
    model = flatbuffer.load(bytearray(content))  # of bytes, its arrays would be read only
    graph, constants = model.subgraphs[0], defaultdict(list)
    outputs = {int(index) for index in graph.outputs}
    for op in graph.operators:
        for position, index in enumerate(() if op.inputs is None else map(int, op.inputs)):
            tensor = graph.tensors[index]
            stored = index >= 0 and flatbuffer.constant(model, tensor) is not None
            if stored and tensor.type == FLOAT32 and index not in outputs:
                constants[index].append(_Reader(op, position))
    return model, constants


def _halves(model: Any, tensor: Any) -> np.ndarray:
    values = flatbuffer.constant(model, tensor)
    # Converters write infinity, a mask's, as the largest float32; it becomes the largest float16.
    clipped = np.where(np.abs(values) == LARGEST_FLOAT32, np.clip(values, *HALF_RANGE), values)
    beyond = np.isfinite(clipped) & ((clipped < HALF_RANGE[0]) | (clipped > HALF_RANGE[1]))
    if beyond.any():
        raise ValueError(
            f"as_float16: {tensor.name.decode()!r} holds {clipped[beyond][0]:g}, and float16 reaches "
            f"{HALF_RANGE[1]:g}; export the model as variant='float32'"
        )
    return clipped.astype(np.float16)


def _add_wide(graph: Any, narrow: Any) -> int:
    """Add the float32 tensor that a constant is widened into; its index."""
    wide = flatbuffer.schema_module().TensorT()
    wide.name, wide.shape, wide.type = narrow.name + b"_float32", narrow.shape, FLOAT32
    wide.hasRank = narrow.hasRank
    graph.tensors.append(wide)
    return len(graph.tensors) - 1


def _dequantize(code: int, narrow: int, wide: int) -> Any:
    op = flatbuffer.schema_module().OperatorT()
    op.opcodeIndex = code
    op.inputs, op.outputs = np.array([narrow], np.int32), np.array([wide], np.int32)
    return op


def _add_dequantize_code(model: Any) -> int:
    schema = flatbuffer.schema_module()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = DEQUANTIZE_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _add_half_hint(model: Any) -> None:
    entry = flatbuffer.schema_module().MetadataT()
    entry.name, value = HALF_HINT
    entry.buffer = _add_buffer(model, np.frombuffer(value, np.uint8))
    model.metadata = [*(model.metadata or ()), entry]


def _is_kernel(model: Any, tensor: Any, readers: list[_Reader]) -> bool:
    """Whether hybrid operators of one kind, and no others, read a large constant as their kernel."""
    roles = {(flatbuffer.op_name(model, reader.op), reader.position) for reader in readers}
    ((name, position), *others) = roles
    large = int(np.prod(tensor.shape, dtype=np.int64)) >= SMALLEST_INT8_KERNEL
    return large and not others and name in HYBRID and position == KERNEL


def _store_int8(model: Any, tensor: Any, axis: int) -> None:
    """Store a kernel as integers -127..127 with one scale a channel, so that its largest weight is 127."""
    kernel = flatbuffer.constant(model, tensor)
    others = tuple(dimension for dimension in range(kernel.ndim) if dimension != axis)
    reach = np.maximum(np.abs(kernel).max(others, keepdims=True), SMALLEST_RANGE)
    scale = reach / np.float32(127)
    steps = (kernel / scale).astype(np.float64)
    integers = np.copysign(np.floor(np.abs(steps) + 0.5), steps)  # halves away from zero
    _store(model, tensor, INT8, integers.astype(np.int8))
    tensor.quantization = flatbuffer.schema_module().QuantizationParametersT()
    tensor.quantization.scale = scale.ravel()
    tensor.quantization.zeroPoint = np.zeros(scale.size, np.int64)
    tensor.quantization.quantizedDimension = axis


def _make_hybrid(model: Any, op: Any, version: int) -> None:
    code = model.operatorCodes[op.opcodeIndex]
    code.version = max(code.version, version)
    if flatbuffer.op_name(model, op) == "FULLY_CONNECTED":
        op.builtinOptions.asymmetricQuantizeInputs = True


def _store(model: Any, tensor: Any, dtype: int, values: np.ndarray) -> None:
    """Store other elements in a tensor; a tensor that shares its buffer keeps the old ones."""
    data = np.frombuffer(values.tobytes(), np.uint8)
    sharing = sum(other.buffer == tensor.buffer for other in model.subgraphs[0].tensors)
    if sharing > 1:
        tensor.buffer = _add_buffer(model, data)
    else:
        model.buffers[tensor.buffer].data = data
    tensor.type = dtype


def _add_buffer(model: Any, data: np.ndarray) -> int:
    buffer = flatbuffer.schema_module().BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    return len(model.buffers) - 1
