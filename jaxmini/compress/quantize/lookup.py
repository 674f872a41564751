"""Lookup: rows of a table by the numbers of tokens, the one thing a model may do with integers.

The table's integers lie on the grid of what is read from it, so reading moves numbers and rounds nothing.
"""

import dataclasses

import jax.numpy as jnp

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.patterns import scalar
from jaxmini.compress.quantize.plan import Move
from jaxmini.compress.quantize.program import Op, Program, Value
from jaxmini.compress.quantize.refusal import refuse
from jaxmini.state import Array

# What may happen to the numbers of tokens on their way; none changes their order.
SHAPING = frozenset({"broadcast_in_dim", "reshape", "convert_element_type", "copy"})


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup(Move):
    """Rows of a table, the first of ``inputs``, by token numbers, the second.

    Numbers outside the table read its first or last row, where the float model gives NaN or counts from
    the end.
    """

    def move(self, *operands: Array) -> list[Array]:
        """Table [N, D] and numbers [...] -> rows [..., D]."""
        table, numbers = operands
        return [jnp.take(table, numbers, axis=0, mode="clip")]


def looked_up(grouping: Grouping, op: Op) -> None:
    """Rows of a table that is trained, at the numbers that are the model's input."""
    program = grouping.program
    table, numbers = grouping.inputs(op)
    shape, axes = program.shape(table), op.params["dimension_numbers"]
    if len(shape) != 2 or not axes.start_index_map == axes.collapsed_slice_dims == (0,):
        refuse(op, f"it reads other than rows of a table, of {list(shape)}", "use nn.Embed")
    wanted = (*program.shape(program.input), shape[1])
    if not _is_input(program, numbers, shape[0]) or program.shape(op.outputs[0]) != wanted:
        refuse(
            op,
            "it reads at numbers that are computed",
            "look up the model's input itself, integers [B, T], with nn.Embed or jnp.take",
        )
    name = grouping.name(op, "lookup")
    grouping.add(Lookup(name, name, (table, program.input), op.outputs, op))


def _is_input(program: Program, value: Value, count: int) -> bool:
    """Whether numbers are the model's input but for their shape and the ``count`` added to negative ones."""
    producers = {output: op for op in program.ops for output in op.outputs}
    while value != program.input:
        op = producers.get(value)
        if op is not None and op.name in SHAPING:
            value = op.inputs[0]
        elif op is not None and op.name == "select_n" and _wraps(producers, op, count):
            value = op.inputs[1]
        else:
            return False
    return True


def _wraps(producers: dict[Value, Op], op: Op, count: int) -> bool:
    """Whether a choice is ``where(x < 0, x + count, x)``, as JAX counts negative numbers from the end."""
    negative, number, moved = op.inputs
    return all(
        made is not None
        and (made.name, made.inputs[0]) == (name, number)
        and scalar(made.inputs[1]) == other
        for made, name, other in (
            (producers.get(negative), "lt", 0),
            (producers.get(moved), "add", count),
        )
    )
