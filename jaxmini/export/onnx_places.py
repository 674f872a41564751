"""ONNX places: rows of a table by token numbers, and choices by places and masks known before a file runs."""

import math
from collections.abc import Sequence

import numpy as np

from jaxmini.compress.quantize.lookup import Lookup
from jaxmini.compress.quantize.moving import Select
from jaxmini.compress.quantize.plan import Move
from jaxmini.compress.quantize.program import Op
from jaxmini.export.onnx_layout import Tensor, Writer, as_in_jax, refusal


def looked_up(writer: Writer, group: Lookup, tokens: Tensor) -> Tensor:
    """Rows of a table [N, D] at numbers [...]; those outside it read its first or its last row."""
    rows, _ = writer.shape(group.inputs[0])
    table = writer.stored(group, 0, lambda table: table)
    ends = (writer.graph.array("end", np.int32(end)) for end in (0, rows - 1))
    inside = writer.graph.node("Clip", tokens.name, *ends)
    name = writer.graph.node("Gather", table, inside, axis=0)
    return writer.rounded(name, as_in_jax(len(tokens.order) + 1), group.site)


def selected(writer: Writer, group: Select, operands: Sequence[Tensor | None]) -> Tensor:
    """Each number is that of the operand which the mask counts, from 0; False is 0, True is 1."""
    (chosen, *others), order = writer.aligned(group, operands)
    for index, name in enumerate(others, 1):
        mask = writer.turned(group.op, np.asarray(group.mask == index), order)
        where = writer.graph.array("mask", mask)
        chosen = writer.graph.node("Where", where, name, chosen)
    return writer.rounded(chosen, order, group.site)


def taken(writer: Writer, group: Move, operands: Sequence[Tensor | None]) -> list[Tensor]:
    """The numbers at places that are known: along one axis, or anywhere in an example."""
    axis, source = _axis(writer, group), operands[0]
    form = _anywhere(writer, group, source) if axis is None else _along(writer, group, source, axis)
    return [form]


def _axis(writer: Writer, group: Move) -> int | None:
    """The axis along which whole rows are taken; None where it is not so."""
    numbers, sizes = group.op.params["dimension_numbers"], group.op.params["slice_sizes"]
    shape = writer.shape(group.inputs[0])
    axes = [axis for axis, size in enumerate(sizes) if size != shape[axis]]
    known = tuple(numbers.start_index_map)
    simple = known == tuple(numbers.collapsed_slice_dims) and not numbers.operand_batching_dims
    return known[0] if simple and len(known) == 1 and set(axes) <= set(known) else None


def _along(writer: Writer, group: Move, source: Tensor, axis: int) -> Tensor:
    """The axis is replaced by those of the places; JAX says where each goes in the result."""
    op, (places,) = group.op, group.settings
    rows = op.params["dimension_numbers"].offset_dims
    new = [a for a in range(len(writer.shape(group.outputs[0]))) if a not in rows]
    others = [a for a in range(len(source.order)) if a != axis]
    target = {a: (row,) for a, row in zip(others, rows, strict=True)} | {axis: tuple(new)}
    writer.require_batch(op, target[0] == (0,), "it moves the batch")
    where = writer.graph.array("places", places[..., 0].astype(np.int32))
    order = tuple(to for a in source.order for to in target[a])
    return writer.moved("Gather", source, where, order=order, axis=source.order.index(axis))


def _anywhere(writer: Writer, group: Move, source: Tensor) -> Tensor:
    """Places are counted through all axes of an example."""
    shape, op = writer.shape(group.inputs[0]), group.op
    count = math.prod(shape[1:])
    numbered = np.arange(shape[0] * count, dtype=np.int32).reshape(shape)
    (places,) = map(np.asarray, group.move(numbered))
    _require_examples(op, places, shape[0], count)
    flat = writer.reshaped(op, source, shape, (shape[0], count))
    where = writer.graph.array("places", places[0])
    return writer.moved("Gather", flat, where, order=as_in_jax(places.ndim), axis=1)


def _require_examples(op: Op, places: np.ndarray, batch: int, count: int) -> None:
    """See that each row of the result is taken of the example of its number."""
    starts = count * np.arange(batch, dtype=np.int32).reshape(-1, *(1,) * (places.ndim - 1))
    if len(places) != batch or (places != places[:1] + starts).any():
        raise refusal(op, "it moves the batch", "leave the batch the first axis")
