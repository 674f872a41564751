"""Subgraph: a group of several operations of the program, run as the model wrote them."""

import dataclasses
from collections.abc import Sequence

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.plan import Group
from jaxmini.compress.quantize.program import Literal, Op, Value, run
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Subgraph(Group):
    """Operations that leave one value, rounded at its end alone.

    Attributes:
        ops: in the order they run.
        reads: what the operations call the group's ``inputs``.
        held: the values they read that depend on the variables alone.
    """

    ops: tuple[Op, ...]
    reads: tuple[int, ...]
    held: tuple[int, ...] = ()

    def __call__(self, operands: Sequence[Array], held: Sequence[Array]) -> Array:
        """What the operations leave, in float."""
        values = dict(zip((*self.reads, *self.held), (*operands, *held), strict=True))
        run(self.ops, values)
        return values[self.ops[-1].outputs[0]]

    def written(self, operands: Sequence[Array], held: Sequence[Array]) -> Array:
        """The same as converters know it."""
        return self(operands, held)


@dataclasses.dataclass(frozen=True, eq=False)
class FloatRun(Subgraph):
    """Operations of a network of which only kernels are rounded; what others read of them stays float."""

    def results(self, operands: Sequence[Array], held: Sequence[Array]) -> list[Array]:
        """What the operations leave, one array an output."""
        values = dict(zip((*self.reads, *self.held), (*operands, *held), strict=True))
        run(self.ops, values)
        return [values[output] for output in self.outputs]

    def __str__(self) -> str:
        return f"{len(self.ops)} float operation{'s' * (len(self.ops) > 1)}"


def read_by(grouping: Grouping, ops: Sequence[Op]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The values that ``ops`` read and do not compute: activations, and those of the variables alone."""
    computed = {value for op in ops for value in op.outputs}
    read = [v for op in ops for v in op.inputs if not isinstance(v, Literal) and v not in computed]
    order = tuple(dict.fromkeys(read))
    return (
        tuple(value for value in order if grouping.is_activation(value)),
        tuple(value for value in order if not grouping.is_activation(value)),
    )


def seen_outside(grouping: Grouping, ops: Sequence[Op]) -> tuple[int, ...]:
    """The values that ``ops`` compute and others read, or the model returns."""
    own = {value for op in ops for value in op.outputs}

    def seen(value: Value) -> bool:
        readers = grouping.consumers.get(value, [])
        return value == grouping.output or any(own.isdisjoint(op.outputs) for op in readers)

    return tuple(value for op in ops for value in op.outputs if seen(value))
