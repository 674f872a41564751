"""Edits of a written file that no converter does: the integer mean, widths of borders, what is not used."""

from typing import Any, NamedTuple

import numpy as np

from jaxmini.export import flatbuffer

INT32, INT64, INT16, INT8 = 2, 4, 7, 9  # TensorType of the schema
MEAN_VERSIONS = {INT8: 2, INT16: 3}  # the first with kernels of a type


class _Mean(NamedTuple):
    """A mean of integers, as a converter writes it.

    Attributes:
        source: index of the integer tensor whose mean it is.
        total: the SUM in it, which knows the axes.
        last: the operator that writes the integer result.
    """

    source: int
    total: Any
    last: Any


def integer_means(content: bytes) -> bytes:
    """The file with every mean of int8 (or int16) numbers made one integer operator, MEAN.

    TensorFlow's converter writes it as DEQUANTIZE, SUM, MUL(1/N), QUANTIZE. Where there is one number to
    average, MUL is not there, and LiteRT's converter writes SUM. The quantization of the tensors stays as
    it is. A mean that is part of a larger float island is left alone.

    Args:
        content: the bytes of a .tflite file.
    """
    model = flatbuffer.load(content)
    graph = model.subgraphs[0]
    means = [found for op in graph.operators if (found := _find_mean(model, op)) is not None]
    if not means:
        return content
    version = max(MEAN_VERSIONS.get(graph.tensors[mean.source].type, 2) for mean in means)
    code = _add_mean_code(model, version)
    for mean in means:
        index = next(i for i, op in enumerate(graph.operators) if op is mean.last)
        graph.operators[index] = _operator(code, mean)
    _remove_dead_ops(graph)
    _remove_unused_tensors(model)
    _remove_unused_codes(model)
    return flatbuffer.dump(model)


def narrow_paddings(content: bytes) -> bytes:
    """The file with the widths of every PADV2 as int32, which all kernels read.

    TensorFlow's converter writes them as int64 where the border is not 0.

    Args:
        content: the bytes of a .tflite file.
    """
    model = flatbuffer.load(content)
    tensors = model.subgraphs[0].tensors
    pads = [op for op in model.subgraphs[0].operators if _is(model, op, "PADV2")]
    wide = [op for op in pads if tensors[op.inputs[1]].type == INT64]
    for op in wide:
        widths = tensors[op.inputs[1]]
        if widths.type == INT64:  # several may read one tensor
            numbers = flatbuffer.constant(model, widths).astype(np.int32)
            model.buffers.append(flatbuffer.schema_module().BufferT())
            model.buffers[-1].data = np.frombuffer(numbers.tobytes(), np.uint8)
            widths.type, widths.buffer = INT32, len(model.buffers) - 1
    return flatbuffer.dump(model) if wide else content


def repeated_constants(content: bytes) -> bytes:
    """The file with every int8 constant as large as it is read.

    TensorFlow's converter repeats one for each example by an operator, BROADCAST_TO, and an int64 shape.

    Args:
        content: the bytes of a .tflite file.
    """
    model = flatbuffer.load(content)
    graph = model.subgraphs[0]
    repeating = [op for op in graph.operators if _repeats_constant(model, op)]
    if not repeating:
        return content
    for op in repeating:
        repeated = graph.tensors[op.outputs[0]]
        values = flatbuffer.constant(model, graph.tensors[op.inputs[0]])
        numbers = np.broadcast_to(values, tuple(repeated.shape)).tobytes()
        model.buffers.append(flatbuffer.schema_module().BufferT())
        model.buffers[-1].data = np.frombuffer(numbers, np.uint8)
        repeated.buffer = len(model.buffers) - 1
    graph.operators = [op for op in graph.operators if not any(op is one for one in repeating)]
    _remove_unused_tensors(model)
    _remove_unused_codes(model)
    return flatbuffer.dump(model)


def _repeats_constant(model: Any, op: Any) -> bool:
    source = model.subgraphs[0].tensors[op.inputs[0]]
    is_stored = source.type == INT8 and flatbuffer.constant(model, source) is not None
    return is_stored and _is(model, op, "BROADCAST_TO")


def _find_mean(model: Any, last: Any) -> _Mean | None:
    """The mean that ends in this operator; None if none does."""
    graph, factor, total = model.subgraphs[0], 1.0, last
    integer = _is(model, last, "SUM") and graph.tensors[last.inputs[0]].type in MEAN_VERSIONS
    if _is(model, last, "QUANTIZE"):
        total = _producer(graph, last.inputs[0])
        if _is(model, total, "MUL"):
            scale = flatbuffer.constant(model, graph.tensors[total.inputs[1]])
            factor = float(scale.item()) if scale is not None and scale.size == 1 else 0.0
            total = _producer(graph, total.inputs[0])
        dequantize = _producer(graph, total.inputs[0]) if _is(model, total, "SUM") else None
        if not _is(model, dequantize, "DEQUANTIZE"):
            return None
        source = dequantize.inputs[0]
    elif integer:
        source = last.inputs[0]
    else:
        return None
    is_mean = np.isclose(factor * _count(model, total), 1.0, rtol=1e-6)
    return _Mean(int(source), total, last) if is_mean else None


def _count(model: Any, total: Any) -> int:
    """How many numbers a SUM adds into one; 0 where its axes are not known."""
    tensors = model.subgraphs[0].tensors
    axes = flatbuffer.constant(model, tensors[total.inputs[1]])
    shape = tensors[total.inputs[0]].shape
    return 0 if axes is None else int(np.prod([shape[axis] for axis in axes.ravel()]))


def _is(model: Any, op: Any | None, name: str) -> bool:
    return op is not None and flatbuffer.op_name(model, op) == name


def _operator(code: int, mean: _Mean) -> Any:
    schema = flatbuffer.schema_module()
    op = schema.OperatorT()
    op.opcodeIndex = code
    op.inputs = np.asarray([mean.source, mean.total.inputs[1]], np.int32)
    op.outputs = mean.last.outputs
    op.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
    op.builtinOptions = schema.ReducerOptionsT()
    op.builtinOptions.keepDims = mean.total.builtinOptions.keepDims
    return op


def _add_mean_code(model: Any, version: int) -> int:
    schema = flatbuffer.schema_module()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MEAN
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _producer(graph: Any, tensor: int) -> Any | None:
    return next((op for op in graph.operators if tensor in op.outputs), None)


def _remove_dead_ops(graph: Any) -> None:
    """Remove, until there are none, operators that no other operator and no output reads."""
    while True:
        read = {int(index) for op in graph.operators for index in op.inputs}
        read |= {int(index) for index in graph.outputs}
        alive = [op for op in graph.operators if read.intersection(map(int, op.outputs))]
        if len(alive) == len(graph.operators):
            return
        graph.operators = alive


def _remove_unused_tensors(model: Any) -> None:
    graph = model.subgraphs[0]
    lists = [indices for op in graph.operators for indices in (op.inputs, op.outputs)]
    used = {int(index) for indices in [*lists, graph.inputs, graph.outputs] for index in indices}
    kept = sorted(used - {-1})
    new = {old: index for index, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in kept]
    for op in graph.operators:
        op.inputs, op.outputs = _renumbered(op.inputs, new), _renumbered(op.outputs, new)
    graph.inputs, graph.outputs = _renumbered(graph.inputs, new), _renumbered(graph.outputs, new)
    for signature in model.signatureDefs or ():
        for entry in [*signature.inputs, *signature.outputs]:
            entry.tensorIndex = new[entry.tensorIndex]


def _remove_unused_codes(model: Any) -> None:
    operators = model.subgraphs[0].operators
    kept = sorted({op.opcodeIndex for op in operators})
    new = {old: index for index, old in enumerate(kept)}
    model.operatorCodes = [model.operatorCodes[index] for index in kept]
    for op in operators:
        op.opcodeIndex = new[op.opcodeIndex]


def _renumbered(indices: Any, new: dict[int, int]) -> np.ndarray:
    return np.asarray([new[int(index)] for index in indices], np.int32)
