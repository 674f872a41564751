"""Wide bias: the biases of a file of int16 activations, in the 64 bits that its kernels read.

Converters write them in 32 bits; convolutions then read two neighbours as one number and answer nonsense,
without a word.
"""

from typing import Any

import numpy as np

from jaxmini.compress.quantize.frozen import Frozen, FrozenKernel
from jaxmini.compress.quantize.plan import Plan, Weighted
from jaxmini.export import editing, flatbuffer
from jaxmini.export.correspondence import correspond

IMAGE, KERNEL, BIAS = range(3)  # the inputs of an operator with a kernel

# A bias passes the converter as float32: beyond 24 bits its last ones are lost on the way.
LOST = 2.0**-22


def widened(content: bytes, plan: Plan, frozen: Frozen) -> bytes:
    """The file with every bias in int64, and one of zeros where an operator has none.

    An integer that the converter's float32 could not hold is taken from the frozen network; any other
    stays what it is, for the comparison with the frozen network to judge.

    Args:
        content: the bytes of a file of one subgraph, as a converter wrote it.
        plan: for the file's batch.
        frozen: the integers it should hold.
    """
    file = flatbuffer.read(content)
    model = flatbuffer.load(bytearray(content))
    (graph,) = model.subgraphs
    edited = {tuple(map(int, op.outputs)): op for op in graph.operators}
    for group, op in correspond(file, plan, frozen).pairs:
        if isinstance(group, Weighted) and op is not None:
            stored = _stored(file, op)
            bias = _settled(stored, frozen.kernels[group.name])
            _store(model, graph, edited[op.outputs], group.name, bias, stored is not None)
    return flatbuffer.dump(model)


def _stored(file: flatbuffer.File, op: flatbuffer.Op) -> np.ndarray | None:
    """The bias as the converter wrote it."""
    has_bias = len(op.inputs) > BIAS and op.inputs[BIAS] >= 0
    return file.tensors[op.inputs[BIAS]].data if has_bias else None


def _settled(stored: np.ndarray | None, kernel: FrozenKernel) -> np.ndarray:
    """The integers to store, int64 [O]."""
    if stored is None:
        return np.zeros(kernel.bias.size, np.int64)
    stored = np.broadcast_to(stored.astype(np.int64).ravel(), kernel.bias.shape)
    near = np.abs(stored - kernel.bias) <= np.abs(kernel.bias) * LOST
    return np.where(near, kernel.bias, stored)


def _store(model: Any, graph: Any, op: Any, name: str, bias: np.ndarray, has_bias: bool) -> None:
    """Store an operator's bias in int64, in the tensor it has or in a new one."""
    if not has_bias:
        op.inputs = np.asarray([*op.inputs[:BIAS], _added(graph, op, name)], np.int32)
    tensor = graph.tensors[op.inputs[BIAS]]
    tensor.type, tensor.shape = editing.INT64, np.asarray(bias.shape, np.int32)
    if has_bias:
        editing.store(model, tensor, bias.tobytes())
    else:
        tensor.buffer = editing.add_buffer(model, bias.tobytes())


def _added(graph: Any, op: Any, name: str) -> int:
    """A new tensor for a bias, without its integers; its index."""
    image, kernel = (graph.tensors[op.inputs[i]].quantization.scale for i in (IMAGE, KERNEL))
    schema = flatbuffer.schema_module()
    tensor, grid = schema.TensorT(), schema.QuantizationParametersT()
    tensor.name, tensor.hasRank = f"{name}/bias".encode(), True
    grid.scale = (np.float64(image[0]) * np.asarray(kernel, np.float64)).astype(np.float32)
    grid.zeroPoint = np.zeros(len(grid.scale), np.int64)
    tensor.quantization = grid
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
