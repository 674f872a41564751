"""Editing: tensors, operators and constants added to the schema's mutable model of a file."""

from typing import Any

import numpy as np

from jaxmini.export import flatbuffer

# TensorType of the schema.
FLOAT32, INT32, UINT8, INT64, INT16, INT8, INT4 = 0, 2, 3, 4, 7, 9, 17


def add_tensor(
    graph: Any,
    name: str,
    like: Any,
    dtype: int,
    grid: tuple[float, int] | None = None,
) -> int:
    """Add a tensor of the shape of another; its index.

    Args:
        graph: of a ``ModelT``.
        name: of the new tensor.
        like: a tensor of the graph.
        dtype: TensorType of the schema.
        grid: scale and zero point of a quantized one.
    """
    schema = flatbuffer.schema_module()
    tensor = schema.TensorT()
    tensor.name, tensor.type = name.encode(), dtype
    tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, True
    if grid is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.asarray([grid[0]], np.float32)
        tensor.quantization.zeroPoint = np.asarray([grid[1]], np.int64)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_number(model: Any, graph: Any, name: str, value: np.float32) -> int:
    """Add a constant, one float32 number; the tensor's index."""
    tensor = flatbuffer.schema_module().TensorT()
    tensor.name, tensor.type, tensor.hasRank = name.encode(), FLOAT32, True
    tensor.shape = np.zeros(0, np.int32)
    tensor.buffer = add_buffer(model, np.asarray(value, np.float32).tobytes())
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_buffer(model: Any, content: bytes) -> int:
    """Add stored bytes; the buffer's index."""
    buffer = flatbuffer.schema_module().BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def store(model: Any, tensor: Any, content: bytes) -> None:
    """Give a tensor other bytes; tensors that shared its buffer keep the old ones."""
    sharing = sum(t.buffer == tensor.buffer for g in model.subgraphs for t in g.tensors)
    if sharing > 1:
        tensor.buffer = add_buffer(model, content)
    else:
        model.buffers[tensor.buffer].data = np.frombuffer(content, np.uint8)


def operator(
    model: Any, name: str, version: int, inputs: list[int], outputs: list[int], options: str = ""
) -> Any:
    """A new operator, not yet in a graph.

    Args:
        model: gets the operator's code.
        name: of the operator in the schema.
        version: of the operator.
        inputs, outputs: indices of tensors.
        options: name of the schema's table of options, all left at their defaults; empty for none.
    """
    schema = flatbuffer.schema_module()
    made = schema.OperatorT()
    made.opcodeIndex = _code(model, getattr(schema.BuiltinOperator, name), version)
    made.inputs, made.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
    if options:
        made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        made.builtinOptions = getattr(schema, f"{options}T")()
    return made


def require_version(model: Any, op: Any, version: int) -> None:
    """Raise an operator's version to at least this one; others of its kind keep theirs."""
    code = model.operatorCodes[op.opcodeIndex]
    if code.version < version:
        op.opcodeIndex = _code(model, max(code.builtinCode, code.deprecatedBuiltinCode), version)


def _code(model: Any, builtin: int, version: int) -> int:
    """The index of an operator's code, added if there is none."""
    for index, code in enumerate(model.operatorCodes):
        if (max(code.builtinCode, code.deprecatedBuiltinCode), code.version) == (builtin, version):
            return index
    code = flatbuffer.schema_module().OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
