"""ONNX products: matrix products over any axes, as attention has them, brought to those of the last two."""

import math
from collections.abc import Sequence

from jaxmini.compress.quantize.plan import Group
from jaxmini.export.onnx_layout import Order, Tensor, Writer, as_in_jax


def product(writer: Writer, group: Group, operands: Sequence[Tensor | None]) -> Tensor:
    """What a ``dot_general`` gives, one operand of which may be a constant.

    Its axes are those that both have, then what is left of the first, then of the second.
    """
    summed, batches = group.op.params["dimension_numbers"]
    shapes = [writer.shape(value) for value in group.inputs]
    kept = [
        tuple(axis for axis in range(len(shapes[side])) if axis not in batches[side] + summed[side])
        for side in range(2)
    ]
    common, left, inner, right = (
        tuple(shapes[side][axis] for axis in axes)
        for side, axes in ((0, batches[0]), (0, kept[0]), (0, summed[0]), (1, kept[1]))
    )
    depth, columns = math.prod(inner), math.prod(right)
    rows = (*common, math.prod(left)) if common else left
    sides = (
        (batches[0] + kept[0] + summed[0], (*rows, depth)),
        (batches[1] + summed[1] + kept[1], (*common, depth, columns)),
    )
    names = [
        _matrices(writer, group, position, operand, *sides[position])
        for position, operand in enumerate(operands)
    ]
    flat, name = (*rows, columns), writer.graph.node("MatMul", *names)
    multiplied = writer.rounded(name, as_in_jax(len(flat)), group.site)
    return writer.reshaped(group.op, multiplied, flat, (*common, *left, *right))


def _matrices(
    writer: Writer,
    group: Group,
    position: int,
    operand: Tensor | None,
    order: Order,
    sizes: tuple[int, ...],
) -> str:
    """An operand with its axes in an order, as matrices of ``sizes``."""
    summed, batches = group.op.params["dimension_numbers"]
    if operand is None:
        shared = 0 not in batches[1 - position]
        writer.require_batch(group.op, shared, "its constant differs along the batch")
        return writer.stored(group, position, lambda v: v.transpose(order).reshape(sizes))
    writer.require_batch(group.op, 0 not in summed[position], "it adds up the batch")
    writer.require_batch(group.op, order[0] == 0, "it moves the batch")
    shape = writer.shape(group.inputs[position])
    turned = writer.arranged(operand, order)._replace(order=as_in_jax(len(order)))
    return writer.reshaped(group.op, turned, [shape[axis] for axis in order], sizes).name
