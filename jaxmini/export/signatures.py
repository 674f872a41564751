"""Signatures: one subgraph with two answers made two subgraphs with one each, of the same weights."""

import copy
from typing import Any

import numpy as np

from jaxmini.export import flatbuffer
from jaxmini.export.signature import EMBEDDING, OUTPUT, SIGNATURE


def split(content: bytes) -> bytes:
    """The file with logits and embedding each in a subgraph and a signature of its own.

    A weight that both need is stored once. Neither computes what only the other needs.

    Args:
        content: the bytes of a file of one subgraph and one signature, of outputs ``logits`` and
            ``embedding``.
    """
    model = flatbuffer.load(bytearray(content))
    (whole,), (signature,) = model.subgraphs, model.signatureDefs
    outputs = {entry.name.decode(): int(entry.tensorIndex) for entry in signature.outputs}
    names = ((SIGNATURE, OUTPUT), (EMBEDDING, EMBEDDING))
    parts = [_reaching(whole, outputs[output]) for _, output in names]
    model.subgraphs = [graph for graph, _ in parts]
    model.subgraphs[1].name = EMBEDDING.encode()
    model.signatureDefs = [
        _signature(signature, key, output, index, kept)
        for index, ((key, output), (_, kept)) in enumerate(zip(names, parts, strict=True))
    ]
    return flatbuffer.dump(model)


def _reaching(whole: Any, output: int) -> tuple[Any, dict[int, int]]:
    """The part of a subgraph that computes one tensor; and the new index of each tensor in it."""
    graph, needed, ops = copy.copy(whole), {output}, []
    for op in reversed(whole.operators):
        if needed.intersection(map(int, op.outputs)):
            needed |= {int(index) for index in op.inputs if index >= 0}
            needed |= set(map(int, op.outputs))
            ops.insert(0, copy.copy(op))
    kept = sorted(needed | set(map(int, whole.inputs)))
    new = {old: index for index, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [copy.copy(whole.tensors[index]) for index in kept]
    for op in ops:
        op.inputs, op.outputs = _renumbered(op.inputs, new), _renumbered(op.outputs, new)
    graph.operators = ops
    graph.inputs = _renumbered(whole.inputs, new)
    graph.outputs = _renumbered([output], new)
    return graph, new


def _signature(whole: Any, key: str, output: str, index: int, new: dict[int, int]) -> Any:
    signature = copy.copy(whole)
    signature.signatureKey, signature.subgraphIndex = key.encode(), index
    signature.inputs = [_entry(entry, new) for entry in whole.inputs]
    signature.outputs = [_entry(e, new) for e in whole.outputs if e.name.decode() == output]
    return signature


def _entry(whole: Any, new: dict[int, int]) -> Any:
    entry = copy.copy(whole)
    entry.tensorIndex = new[int(whole.tensorIndex)]
    return entry


def _renumbered(indices: Any, new: dict[int, int]) -> np.ndarray:
    return np.asarray([new[int(index)] for index in indices], np.int32)
