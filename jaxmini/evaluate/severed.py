"""Severed: a file whose operators do not read one another, so that each can be fed by itself."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmini.evaluate.memory import activations
from jaxmini.export import flatbuffer
from jaxmini.export.flatbuffer import File

TELL_SHAPES = frozenset({"RANK", "SHAPE"})


@dataclasses.dataclass(frozen=True)
class Severed:
    """A file with an input for every number that one of its operators reads of another.

    Attributes:
        content: the bytes of the file; its operators, and its tensors by index, are those of the whole one.
        fed: input of the severed file, besides the whole one's -> the tensor whose numbers it takes.
        written: the tensors that operators compute of inputs, in their order; all are outputs.
    """

    content: bytes
    fed: Mapping[int, int]
    written: tuple[int, ...]


def severed(source: Path | str | bytes) -> Severed:
    """Cut a file between its operators.

    What is computed of constants or of shapes alone stays as it is: kernels that a file stores in float16,
    say, are constants for its convolutions, and not every shape fits.

    Raises:
        ValueError: as ``flatbuffer.read``.
    """
    content, where = flatbuffer.contents(source)
    file, model = flatbuffer.read(source, calls=True), flatbuffer.load(content, where)
    graph, written = model.subgraphs[0], _written(file)
    read = sorted({index for op in file.ops for index in op.inputs}.intersection(written))
    fed = {}
    for index in read:
        taken = copy.copy(graph.tensors[index])
        taken.name += b":fed"
        graph.tensors.append(taken)
        fed[index] = len(graph.tensors) - 1
    for op, known in zip(graph.operators, file.ops, strict=True):
        op.inputs = np.asarray([fed.get(index, index) for index in known.inputs], np.int32)
    graph.inputs = np.asarray([*file.inputs, *fed.values()], np.int32)
    graph.outputs = np.asarray(written, np.int32)
    model.signatureDefs = None  # they name the ends of the whole file
    return Severed(flatbuffer.dump(model), {new: old for old, new in fed.items()}, written)


def _written(file: File) -> tuple[int, ...]:
    """What operators compute of the numbers of inputs."""
    computed = activations(file, known_before=TELL_SHAPES)
    return tuple(index for op in file.ops for index in op.outputs if index in computed)
