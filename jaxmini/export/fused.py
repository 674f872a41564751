"""Fused: rectifiers that converters fuse into operators that only move numbers, as operators of their own."""

import dataclasses
from collections.abc import Set

from jaxmini.export.flatbuffer import File, Op


def unfused(file: File, computing: Set[str]) -> File:
    """The file with a rectifier behind each operator that moves numbers and rectifies them.

    The tensor between the two is a new one, after all others.

    Args:
        computing: the names of the operators that compute; what is fused into these stays.
    """
    tensors, ops = list(file.tensors), []
    for op in file.ops:
        if op.activation == "NONE" or op.name in computing or len(op.outputs) != 1:
            ops.append(op)
            continue
        between = (len(tensors),)
        tensors.append(file.tensors[op.outputs[0]])
        ops.append(dataclasses.replace(op, outputs=between, activation="NONE"))
        ops.append(Op(op.activation, between, op.outputs))
    return dataclasses.replace(file, tensors=tuple(tensors), ops=tuple(ops))
