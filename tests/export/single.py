"""A file of one operator that maps a tensor to one of the same shape, written without a converter."""

from typing import Any

import numpy as np

from jaxmini.export import flatbuffer

SHAPE = (1, 2, 2, 4)


def single(name: str, dtype: type = np.int8, grid: tuple[float, int] = (0.02, -3)) -> bytes:
    """The file.

    Args:
        name: of the operator, as the schema calls it.
        dtype: int8 or float32, of its input and output.
        grid: scale and zero point of the output; the input's are 0.02 and -3.
    """
    schema = flatbuffer.schema_module()
    model, graph, op, code = (
        kind() for kind in (schema.ModelT, schema.SubGraphT, schema.OperatorT, schema.OperatorCodeT)
    )
    number = getattr(schema.BuiltinOperator, name)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    op.opcodeIndex, op.inputs, op.outputs = 0, np.array([0], np.int32), np.array([1], np.int32)
    graph.tensors = [_tensor(schema, dtype, (0.02, -3)), _tensor(schema, dtype, grid)]
    graph.inputs, graph.outputs, graph.operators = op.inputs, op.outputs, [op]
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT()]
    return flatbuffer.dump(model)


def pair() -> bytes:
    """A file of two inputs and two outputs: the magnitudes of int8 and of float32, each of ``SHAPE``."""
    schema = flatbuffer.schema_module()
    model = flatbuffer.load(bytearray(single("ABS", grid=(0.02, 5))))
    (graph,), op = model.subgraphs, schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = 0, np.array([2], np.int32), np.array([3], np.int32)
    graph.tensors += [_tensor(schema, np.float32, (0, 0)) for _ in range(2)]
    graph.operators.append(op)
    graph.inputs, graph.outputs = np.array([0, 2], np.int32), np.array([1, 3], np.int32)
    return flatbuffer.dump(model)


def _tensor(schema: Any, dtype: type, grid: tuple[float, int]) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = b"", np.array(SHAPE, np.int32), 0
    tensor.type = {np.int8: schema.TensorType.INT8, np.float32: schema.TensorType.FLOAT32}[dtype]
    if dtype == np.int8:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([grid[0]], np.float32)
        tensor.quantization.zeroPoint = np.array([grid[1]], np.int64)
    return tensor
