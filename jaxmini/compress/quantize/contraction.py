"""Contraction: a product over any axes, as einsum writes it, made one over the last axes of its input.

Integer files multiply the last axes with a matrix; transposes before and after bring the others there.
Bilinear resizing is such a product, of each axis with constant weights.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax import lax

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.plan import Move
from jaxmini.compress.quantize.program import Op, Value
from jaxmini.compress.quantize.refusal import refuse
from jaxmini.state import Array


class _Operand(NamedTuple):
    """An operand of a product: its value, the axes that are summed over, and those that stay."""

    value: Value
    summed: tuple[int, ...]
    kept: tuple[int, ...]


def is_plain(grouping: Grouping, op: Op) -> bool:
    """Whether a product is one of the last axes of an activation with the first axes of a kernel."""
    inputs, kernel = _operands(grouping, op)
    return _follows(inputs.kept + inputs.summed) and _follows(kernel.summed + kernel.kept)


def rearranged(grouping: Grouping, op: Op, product: Callable[[Grouping, Op], None]) -> None:
    """A product of an activation and a kernel over any axes; ``product`` is the rule of a plain one."""
    if any(op.params["dimension_numbers"][1]):
        refuse(
            op,
            "it multiplies each slice with a kernel of its own",
            "share the kernel (nn.vmap with variable_axes={'params': None}), or write a layer a slice",
        )
    first, second = _operands(grouping, op)
    swapped = not grouping.is_activation(first.value)
    inputs, kernel = (second, first) if swapped else (first, second)
    source = _ordered(grouping, op, inputs.value, inputs.kept + inputs.summed)
    matrix = _ordered(grouping, op, kernel.value, kernel.summed + kernel.kept)
    multiply = functools.partial(_multiply, len(inputs.summed))
    _, (plain,) = grouping.emit(multiply, [source, matrix], op.path)
    rows, columns = len(inputs.kept), len(kernel.kept)
    order = tuple(range(rows + columns))
    order, last = _following(grouping, op, order[rows:] + order[:rows] if swapped else order)
    if _follows(order):
        product(grouping, dataclasses.replace(plain, outputs=(last,)))
        return
    product(grouping, plain)
    transpose = functools.partial(lax.transpose, permutation=order)
    _, (move,) = grouping.emit(transpose, list(plain.outputs), op.path)
    _add(grouping, dataclasses.replace(move, outputs=(last,)))


def _operands(grouping: Grouping, op: Op) -> tuple[_Operand, _Operand]:
    def operand(value: Value, summed: Sequence[int]) -> _Operand:
        kept = set(range(len(grouping.program.shape(value)))) - set(summed)
        return _Operand(value, tuple(summed), tuple(sorted(kept)))

    first, second = map(operand, grouping.inputs(op), op.params["dimension_numbers"][0])
    return first, second


def _follows(order: tuple[int, ...]) -> bool:
    return order == tuple(range(len(order)))


def _multiply(count: int, inputs: Array, kernel: Array) -> jax.Array:
    """Sum over the ``count`` last axes of the inputs and first axes of the kernel."""
    axes = tuple(range(inputs.ndim - count, inputs.ndim)), tuple(range(count))
    return lax.dot_general(inputs, kernel, (axes, ((), ())))


def _following(grouping: Grouping, op: Op, order: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The order of axes, and the value, after the transpose that einsum puts behind a product."""
    reader = grouping.only_consumer(op.outputs[0])
    if reader is None or reader.name != "transpose":
        return order, op.outputs[0]
    return tuple(order[axis] for axis in reader.params["permutation"]), grouping.take(reader)


def _ordered(grouping: Grouping, op: Op, value: Value, order: tuple[int, ...]) -> Value:
    """A kernel, or an activation by a move of its own, with its axes in another order."""
    if _follows(order):
        return value
    transpose = functools.partial(lax.transpose, permutation=order)
    (result,), ops = grouping.emit(transpose, [value], op.path)
    if grouping.is_activation(result):
        _add(grouping, ops[0])
    return result


def _add(grouping: Grouping, move: Op) -> None:
    site = grouping.site_of[move.inputs[0]]
    grouping.add(Move(grouping.name(move), site, move.inputs, move.outputs, move))
