"""Examples: along which axis of each value the examples of a batch lie, followed from the model's input."""

import math
from collections.abc import Mapping

from jaxmini.compress.quantize.program import Op, Program, Value


def example_axes(program: Program) -> Mapping[Value, int | None]:
    """The axis of every value that depends on the input; None where it cannot be told.

    ``jax.vmap`` over heads or groups leaves the examples behind the axis that it maps.
    """
    axes: dict[Value, int | None] = {program.input: 0}
    for op in program.ops:
        known = [(place, axes[value]) for place, value in enumerate(op.inputs) if value in axes]
        if known:
            found = {
                None if axis is None else _followed(program, op, place, axis)
                for place, axis in known
            }
            axes.update(dict.fromkeys(op.outputs, found.pop() if len(found) == 1 else None))
    return axes


def _followed(program: Program, op: Op, place: int, axis: int) -> int | None:
    """Where the axis of the operand at ``place`` is in what an operation leaves."""
    before, after = program.shape(op.inputs[place]), program.shape(op.outputs[0])
    params = op.params
    match op.name:
        case "transpose":
            return params["permutation"].index(axis)
        case "broadcast_in_dim":
            return params["broadcast_dimensions"][axis]
        case "reshape":
            return _reshaped(before, after, axis)
        case "squeeze":
            return _left(params["dimensions"], axis)
        case "dot_general":
            return _multiplied(params["dimension_numbers"], place, len(before), axis, len(after))
        case "conv_general_dilated":
            numbers = params["dimension_numbers"]
            return numbers.out_spec[0] if (place, axis) == (0, numbers.lhs_spec[0]) else None
        case "stack":
            return None
        case _ if "axes" in params:
            return _left(params["axes"], axis)
    kept = axis < len(after) and after[axis] == before[axis]
    return axis if kept else None


def _left(removed: tuple[int, ...], axis: int) -> int | None:
    """An axis after others are gone."""
    return None if axis in removed else axis - sum(other < axis for other in removed)


def _reshaped(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis of the same size that as many numbers stand before."""
    count = math.prod(before[:axis])
    alike = (
        place
        for place, size in enumerate(after)
        if size == before[axis] and math.prod(after[:place]) == count
    )
    return next(alike, None)


def _multiplied(numbers: tuple, place: int, rank: int, axis: int, results: int) -> int | None:
    """The axes of a product are those that both have, then the rest of the first, and of the second."""
    summed, batches = numbers
    if axis in batches[place]:
        return list(batches[place]).index(axis)
    if axis in summed[place]:
        return None
    kept = [own for own in range(rank) if own not in (*batches[place], *summed[place])]
    start = len(batches[0]) if place == 0 else results - len(kept)
    return start + kept.index(axis)
