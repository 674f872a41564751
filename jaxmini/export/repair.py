"""Edits of a written file that no converter does: the integer mean, and what is no longer used removed."""

from typing import Any, NamedTuple

import numpy as np

from jaxmini.export import flatbuffer

MEAN_VERSION = 2  # the first that has int8 kernels


class _Island(NamedTuple):
    """A mean as TensorFlow's converter writes it: float arithmetic between int8 tensors."""

    dequantize: Any
    total: Any
    quantize: Any


def fuse_means(content: bytes) -> bytes:
    """The file with every float mean between int8 tensors made one integer operator.

    TensorFlow's converter writes the mean of an int8 tensor as DEQUANTIZE, SUM, MUL(1/N), QUANTIZE. Those
    four become MEAN on the same int8 tensors, whose quantization stays as it is. A mean that is part of a
    larger float island is left alone.

    Args:
        content: the bytes of a .tflite file.
    """
    model = flatbuffer.load(content)
    graph = model.subgraphs[0]
    islands = [found for op in graph.operators if (found := _mean_island(model, op)) is not None]
    if not islands:
        return content
    code = _add_mean_code(model)
    for island in islands:
        index = next(i for i, op in enumerate(graph.operators) if op is island.quantize)
        graph.operators[index] = _mean(code, island)
    _remove_dead_ops(graph)
    _remove_unused_tensors(model)
    _remove_unused_codes(model)
    return flatbuffer.dump(model)


def _mean_island(model: Any, quantize: Any) -> _Island | None:
    """The island that ends in this operator; None if it is not the end of one."""
    graph = model.subgraphs[0]
    chain = [quantize]
    for name in ("QUANTIZE", "MUL", "SUM", "DEQUANTIZE"):
        if chain[-1] is None or flatbuffer.op_name(model, chain[-1]) != name:
            return None
        chain.append(_producer(graph, chain[-1].inputs[0]))
    _, scaled, total, dequantize, _ = chain
    summed = graph.tensors[total.inputs[0]].shape
    axes = flatbuffer.constant(model, graph.tensors[total.inputs[1]])
    factor = flatbuffer.constant(model, graph.tensors[scaled.inputs[1]])
    if axes is None or factor is None or factor.size != 1:
        return None
    count = np.prod([summed[axis] for axis in axes.ravel()])
    is_mean = np.isclose(float(factor.ravel()[0]) * count, 1.0, rtol=1e-6)
    return _Island(dequantize, total, quantize) if is_mean else None


def _mean(code: int, island: _Island) -> Any:
    schema = flatbuffer.schema_module()
    op = schema.OperatorT()
    op.opcodeIndex = code
    op.inputs = np.asarray([island.dequantize.inputs[0], island.total.inputs[1]], np.int32)
    op.outputs = island.quantize.outputs
    op.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
    op.builtinOptions = schema.ReducerOptionsT()
    op.builtinOptions.keepDims = island.total.builtinOptions.keepDims
    return op


def _add_mean_code(model: Any) -> int:
    schema = flatbuffer.schema_module()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MEAN
    code.version = MEAN_VERSION
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
