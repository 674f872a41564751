"""Edges: the operators by which an integer file takes and gives other types than its own, and no others.

They change the type of a number and not its meaning, so what lies between them, the core, is the whole
network: it is what every check of an integer file looks at.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxmini.export import editing, flatbuffer
from jaxmini.export.flatbuffer import File, Op, Tensor

# The types of an integer network, and the first version of DEQUANTIZE that takes each.
DEQUANTIZE_VERSIONS = {editing.INT8: 2, editing.INT16: 3}
INTEGERS = ("int8", "int16")

# From the integer of an int8 grid to that of the uint8 grid of the same numbers.
UNSIGNED = 128


class Entry(NamedTuple):
    """How pictures come in.

    Attributes:
        inner: index of the tensor of int8 pictures.
        ops: the operators before it.
    """

    inner: int
    ops: tuple[Op, ...]


def with_edges(content: bytes, *, input: str, output: str) -> bytes:
    """The file with other types at its ends, in every subgraph.

    A ``uint8`` input is a pixel, on a grid of the same numbers, and takes one QUANTIZE. A ``float32`` input
    is a pixel 0..255 and takes SUB, MUL (the normalisation) and QUANTIZE. A ``float32`` output takes one
    DEQUANTIZE.

    Args:
        content: the bytes of a file of integer input on the grid of normalised pixels, and integer output.
        input: its own type leaves it, else, of an int8 one, ``uint8`` or ``float32``.
        output: its own type leaves it, else ``float32``.
    """
    if input in INTEGERS and output in INTEGERS:
        return content
    model = flatbuffer.load(bytearray(content))
    for index, graph in enumerate(model.subgraphs):
        if input not in INTEGERS:
            _take(model, index, graph, input)
        if output not in INTEGERS:
            _give(model, index, graph)
    return flatbuffer.dump(model)


def core(file: File) -> File:
    """The file without its edges: inputs and outputs are those of the integer network.

    A file whose ends are int8 already, or reach no int8 tensor by these operators alone, is left as it is.
    """
    if (len(file.inputs), len(file.outputs)) != (1, 1):
        return file
    entry, last = entry_of(file), _exit(file)
    edges = (*entry.ops, *([] if last is None else [last]))
    return dataclasses.replace(
        file,
        ops=tuple(op for op in file.ops if not any(op is edge for edge in edges)),
        inputs=(entry.inner,),
        outputs=file.outputs if last is None else (last.inputs[0],),
    )


def differences(file: File, scale: float, zero_point: int) -> Iterator[str]:
    """A line for each number of the edges that is not the one its pixels need.

    Args:
        file: with its edges.
        scale, zero_point: of the int8 grid of normalised pixels.
    """
    if len(file.inputs) != 1 or not (entry := entry_of(file)).ops:
        return
    outer = file.tensors[file.inputs[0]]
    if outer.dtype == np.uint8:
        grid = (float(np.float32(scale)), zero_point + UNSIGNED)
        stored = (float(outer.scale[0]), int(outer.zero_point[0]))
        if stored != grid:
            yield f"input: (scale, zero point) of its uint8 pixels is {stored}, expected {grid}"
    else:
        stored = tuple(float(_constant(file, op).data.item()) for op in entry.ops[:-1])
        expected = (float(zero_point + UNSIGNED), float(np.float32(scale)))
        if stored != expected:
            yield f"input: its normalisation is (pixel - {stored[0]}) * {stored[1]}, expected {expected}"


def entry_of(file: File) -> Entry:
    """How pictures come into a file: the operators before its int8 network, none where there are none."""
    outer = file.inputs[0]
    wanted = {"uint8": ("QUANTIZE",), "float32": ("SUB", "MUL", "QUANTIZE")}
    ops, tensor = [], outer
    for name in wanted.get(file.tensors[outer].dtype.name, ()):
        op = _only_reader(file, tensor)
        if op is None or op.name != name or not _is_step(file, op, tensor):
            return Entry(outer, ())
        ops.append(op)
        tensor = op.outputs[0]
    is_integer = file.tensors[tensor].dtype.name in INTEGERS
    return Entry(tensor, tuple(ops)) if is_integer else Entry(outer, ())


def _exit(file: File) -> Op | None:
    """The operator that makes the integer output float32; None if there is none."""
    last = file.producer(file.outputs[0])
    if last is None or last.name != "DEQUANTIZE" or len(last.inputs) != 1:
        return None
    return last if file.tensors[last.inputs[0]].dtype.name in INTEGERS else None


def _only_reader(file: File, tensor: int) -> Op | None:
    readers = [op for op in file.ops if tensor in op.inputs]
    return readers[0] if len(readers) == 1 and tensor not in file.outputs else None


def _is_step(file: File, op: Op, tensor: int) -> bool:
    """Whether an operator reads a tensor and, if it reads more, one stored number; and rectifies nothing."""
    if op.inputs[0] != tensor or op.activation != "NONE" or len(op.outputs) != 1:
        return False
    if len(op.inputs) == 1:
        return op.name == "QUANTIZE" and _fits(file.tensors[tensor])
    number = _constant(file, op).data
    return op.name != "QUANTIZE" and number is not None and number.size == 1


def _fits(pixels: Tensor) -> bool:
    """Whether pixels that become integers are floats, or lie on one grid."""
    return pixels.dtype == np.float32 or pixels.scale.size == 1


def _constant(file: File, op: Op) -> Tensor:
    return file.tensors[op.inputs[1]]


def _take(model: Any, index: int, graph: Any, dtype: str) -> None:
    (inner,) = map(int, graph.inputs)
    pictures = graph.tensors[inner]
    scale = np.float32(pictures.quantization.scale[0])
    zero_point = int(pictures.quantization.zeroPoint[0])
    name = f"{pictures.name.decode()}_{dtype}"
    if dtype == "uint8":
        outer = editing.add_tensor(
            graph, name, pictures, editing.UINT8, (scale, zero_point + UNSIGNED)
        )
        steps, last = [], outer
    else:
        outer = editing.add_tensor(graph, name, pictures, editing.FLOAT32)
        moved = editing.add_tensor(graph, f"{name}_moved", pictures, editing.FLOAT32)
        last = editing.add_tensor(graph, f"{name}_scaled", pictures, editing.FLOAT32)
        mean = editing.add_number(model, graph, f"{name}_mean", np.float32(zero_point + UNSIGNED))
        step = editing.add_number(model, graph, f"{name}_step", scale)
        steps = [
            editing.operator(model, "SUB", 1, [outer, mean], [moved], "SubOptions"),
            editing.operator(model, "MUL", 1, [moved, step], [last], "MulOptions"),
        ]
    steps.append(editing.operator(model, "QUANTIZE", 1, [last], [inner], "QuantizeOptions"))
    graph.operators = steps + list(graph.operators)
    graph.inputs = np.asarray([outer], np.int32)
    _rename(model, index, "inputs", inner, outer)


def _give(model: Any, index: int, graph: Any) -> None:
    (inner,) = map(int, graph.outputs)
    integers = graph.tensors[inner]
    outer = editing.add_tensor(
        graph, f"{integers.name.decode()}_float32", integers, editing.FLOAT32
    )
    version = DEQUANTIZE_VERSIONS[integers.type]
    last = editing.operator(model, "DEQUANTIZE", version, [inner], [outer], "DequantizeOptions")
    graph.operators = [*graph.operators, last]
    graph.outputs = np.asarray([outer], np.int32)
    _rename(model, index, "outputs", inner, outer)


def _rename(model: Any, index: int, end: str, old: int, new: int) -> None:
    """Let the signatures of a subgraph name its new input or output."""
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == index:
            for entry in getattr(signature, end):
                if entry.tensorIndex == old:
                    entry.tensorIndex = new
