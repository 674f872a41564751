"""Straightening: functions of several operations that moves of numbers have come between, made whole again.

What ``jax.vmap`` maps stands elsewhere in a maximum than in the numbers it is taken from, so it transposes
both, and softmax is no longer one function of one array: the maximum is taken of the numbers transposed. A
pool of sequences is one of pictures, made sequences again: its sums are divided before that.
"""

import dataclasses
from collections.abc import Sequence

import jax

from jaxmini.compress.quantize.patterns import scalar
from jaxmini.compress.quantize.program import Op, Program, Value


def straightened(program: Program) -> Program:
    """The program with whole averages, and maxima that are transposed as their sources taken of those."""
    types = dict(program.types)
    ops = list(program.ops)
    for op in program.ops:
        if op.name == "reduce_max" and (found := _found(program, op)) is not None:
            ops = _rewritten(ops, types, op, *found)
        elif op.name == "reduce_window_sum" and (divided := _divided(program, op)) is not None:
            ops = _averaged(ops, types, op, *divided)
    return dataclasses.replace(program, ops=tuple(ops), types=types)


def _divided(program: Program, op: Op) -> tuple[Op, Op] | None:
    """The reshape of the sums of windows, and what divides them behind it by a number."""
    move = _only_reader(program, op)
    division = None if move is None else _only_reader(program, move)
    if division is None or move.name != "reshape" or division.name not in ("div", "mul"):
        return None
    source, divisor = division.inputs
    return (move, division) if source in move.outputs and scalar(divisor) is not None else None


def _averaged(
    ops: Sequence[Op],
    types: dict[int, jax.core.ShapedArray],
    op: Op,
    move: Op,
    division: Op,
) -> list[Op]:
    _, divisor = division.inputs
    types[move.outputs[0]] = types[op.outputs[0]]
    first = dataclasses.replace(division, inputs=(*op.outputs, divisor), outputs=move.outputs)
    last = dataclasses.replace(move, inputs=move.outputs, outputs=division.outputs)
    by = {move.outputs: first, division.outputs: last}
    return [by.get(old.outputs, old) for old in ops]


def _found(program: Program, op: Op) -> tuple[Op, list[Op], Op] | None:
    """The transpose of what the maximum is of, what is done to the maximum, and its own transpose."""
    readers = [reader for reader in _readers(program, op.inputs[0]) if reader is not op]
    chain, last = [], op
    while (reader := _only_reader(program, last)) is not None and reader.name == "max":
        if all(scalar(value) is None for value in reader.inputs):
            return None
        chain.append(reader)
        last = reader
    if reader is None or reader.name != "transpose" or len(readers) != 1:
        return None
    (source,) = readers
    if source.name != "transpose" or _after(source, op) != tuple(reader.params["permutation"]):
        return None
    return source, chain, reader


def _after(source: Op, op: Op) -> tuple[int, ...]:
    """How a transpose orders the axes that the maximum leaves."""
    reduced = op.params["axes"]
    left = [axis for axis in source.params["permutation"] if axis not in reduced]
    return tuple(axis - sum(other < axis for other in reduced) for axis in left)


def _rewritten(
    ops: Sequence[Op],
    types: dict[int, jax.core.ShapedArray],
    op: Op,
    source: Op,
    chain: list[Op],
    last: Op,
) -> list[Op]:
    permutation, wanted = source.params["permutation"], types[last.outputs[0]]
    axes = tuple(place for place, axis in enumerate(permutation) if axis in op.params["axes"])
    params = dict(op.params) | {"axes": axes}
    maximum = dataclasses.replace(op, inputs=source.outputs, params=params)
    steps = [maximum, *chain]
    types.update({step.outputs[0]: wanted for step in steps})
    steps[-1] = dataclasses.replace(steps[-1], outputs=last.outputs)
    by = {op.outputs: [source, steps[0]], source.outputs: [], last.outputs: []}
    by |= {old.outputs: [new] for old, new in zip(chain, steps[1:], strict=True)}
    return [new for old in ops for new in by.get(old.outputs, [old])]


def _readers(program: Program, value: Value) -> list[Op]:
    return [op for op in program.ops if any(own is value or own == value for own in op.inputs)]


def _only_reader(program: Program, op: Op) -> Op | None:
    readers = _readers(program, op.outputs[0])
    return readers[0] if len(readers) == 1 and op.outputs[0] != program.output else None
