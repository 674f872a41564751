"""Memory: how many bytes of activations a file needs at once while it runs."""

import functools
import math
from collections.abc import Container

from jaxmini.export.flatbuffer import File, Tensor


def peak_bytes(file: File) -> int:
    """Bytes of the tensors alive at the operator where they are most, in the file's order of operators.

    No arena that runs the operators in this order can be smaller; fragmentation and alignment may make one
    larger. Counted are the input, until its last reader, and all that is computed from it, each from its
    operator to its last reader, at the size of its own dtype; an operator's inputs and outputs are alive
    together, and the output stays to the end; beside an operator that runs subgraphs, what the largest of
    them needs. Not counted: weights and what is computed from weights alone, scratch memory of kernels, the
    interpreter itself.
    """

    @functools.cache
    def called(index: int) -> int:
        return peak(file.called[index])

    def peak(part: File) -> int:
        beside = [max(map(called, op.calls), default=0) for op in part.ops]
        return max(map(sum, zip(_alive(part), beside or [0], strict=True)))

    return peak(file)


def _alive(file: File) -> list[int]:
    """Bytes of the tensors alive at each operator; of a file without one, at its only moment."""
    counted = activations(file)
    first, last = _lifetimes(file)
    return [
        sum(_bytes(file.tensors[i]) for i in counted if first[i] <= step <= last[i])
        for step in range(max(1, len(file.ops)))
    ]


def activations(file: File, *, known_before: Container[str] = ()) -> set[int]:
    """The tensors that depend on the input, or on a state: what is neither stored nor made of it alone.

    Args:
        known_before: operators whose answers do not depend on numbers.
    """
    made = {index for op in file.ops for index in op.outputs}
    known = {i for i, t in enumerate(file.tensors) if t.data is None and i not in made}
    for op in file.ops:
        if op.name not in known_before and known.intersection(op.inputs):
            known.update(op.outputs)
    used = made | {index for op in file.ops for index in op.inputs} | {*file.inputs, *file.outputs}
    return known & used


def _lifetimes(file: File) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last operator at which each tensor is alive."""
    end = len(file.ops) - 1
    first = dict.fromkeys(range(len(file.tensors)), 0)
    last = dict(first)
    for step, op in enumerate(file.ops):
        first |= dict.fromkeys(op.outputs, step)
        last |= dict.fromkeys((*op.inputs, *op.outputs), step)
    return first, last | dict.fromkeys(file.outputs, max(0, end))


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize
