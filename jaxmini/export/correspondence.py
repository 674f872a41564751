"""Correspondence: which operator of a file computes which group of the plan.

Plan and file are walked side by side, along the data. No name is compared, so it does not matter which
converter wrote the file, nor in what order it put branches.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jaxmini.compress.quantize import functions
from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.functions import Apply
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import (
    AveragePool,
    Elementwise,
    Group,
    Mean,
    Move,
    Plan,
    Rectifier,
    Weighted,
)
from jaxmini.compress.quantize.products import Product
from jaxmini.compress.quantize.program import Value
from jaxmini.export.constraints import CHANNEL_AXIS
from jaxmini.export.flatbuffer import File, Op
from jaxmini.export.islands import ISLAND, collapsed

# The operators that each kind of group becomes. Operators of no kind move numbers.
OPERATORS: Mapping[type[Group], frozenset[str]] = {
    Weighted: frozenset(CHANNEL_AXIS),
    Elementwise: frozenset({"ADD", "SUB", "MUL"}),
    Mean: frozenset({"MEAN"}),
    AveragePool: frozenset({"AVERAGE_POOL_2D"}),
    Rectifier: frozenset({"RELU", "RELU6"}),
    Product: frozenset({"BATCH_MATMUL"}),
    Mask: frozenset({"ADD"}),
    Apply: functions.OPERATORS,
    Island: frozenset({ISLAND}),
}
# Those that compute with more than their first input.
OF_MANY = OPERATORS[Elementwise] | OPERATORS[Product] | OPERATORS[Island]
COMPUTING = frozenset().union(*OPERATORS.values())

# Operators that name what they take where a mask is true before what they take where it is not.
CHOICES = frozenset({"SELECT", "SELECT_V2"})

# Where numbers were computed: everything that only moves them leads back there. A concatenation has many.
Roots = tuple[int, ...]


class Correspondence(NamedTuple):
    """A plan beside a file.

    Attributes:
        pairs: every group that computes, and its operator; None where the file has none.
        extra: operators that compute and belong to no group.
        output_agrees: whether the file's output comes from where the plan's does.
        operands: by the name of each group with an operator, the tensors the operator reads for the
            group's operands, in their order; constants are left out.
    """

    pairs: list[tuple[Group, Op | None]]
    extra: list[Op]
    output_agrees: bool
    operands: dict[str, tuple[int, ...]]


def correspond(file: File, plan: Plan, frozen: Frozen) -> Correspondence:
    """Which operator computes which group.

    Where several operators read the same tensor (parallel branches), a group takes the one that holds its
    kernel; where none does, the first whose kernel has its size, so that the difference can be told.

    Args:
        file: of integers.
        plan: for the batch of the file.
        frozen: holds the kernels that tell parallel branches apart.
    """
    walk = _Walk(collapsed(file))
    roots: dict[Value, Roots] = {plan.program.input: (file.inputs[0],)}
    pairs: list[tuple[Group, Op | None]] = []
    operands: dict[str, tuple[int, ...]] = {}
    for group in plan.groups:
        sources = [roots[value] for value in group.inputs if not plan.is_constant(value)]
        op = None if isinstance(group, Move) else walk.take(group, sources, frozen)
        if op is None and _only_moves(group):
            left = _joined(sources)
        else:
            pairs.append((group, op))
            left = () if op is None else (op.outputs[0],)
            if op is not None:
                operands[group.name] = walk.operands(op, sources)
        roots |= dict.fromkeys(group.outputs, left)
    output_agrees = walk.roots(file.outputs[0]) == roots[plan.output]
    return Correspondence(pairs, walk.left, output_agrees, operands)


def kernel_of(file: File, op: Op) -> np.ndarray:
    """The integers of an operator's kernel with the output channels last, as JAX has them."""
    return np.moveaxis(file.tensors[op.inputs[1]].data, CHANNEL_AXIS[op.name], -1)


def _only_moves(group: Group) -> bool:
    """Whether a group computes nothing: a converter may write the mean of one number as a reshape."""
    return isinstance(group, Move) or (isinstance(group, Mean) and group.count == 1)


def _joined(sources: Iterable[Roots]) -> Roots:
    """Each root once, in order: a converter may cut and join anew what borders repeat."""
    return tuple(dict.fromkeys(root for source in sources for root in source))


class _Walk:
    """The file's side: ``left`` are the operators that compute and have no group yet."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.producers = {index: op for op in file.ops for index in op.outputs}
        self.left = [op for op in file.ops if op.name in COMPUTING]

    def take(self, group: Group, sources: list[Roots], frozen: Frozen) -> Op | None:
        names = {group.kind.operator} if isinstance(group, Apply) else OPERATORS[type(group)]
        fed = [op for op in self.left if op.name in names and self.sources(op) == sorted(sources)]
        if isinstance(group, Weighted) and len(fed) > 1:
            kernel = frozen.kernels[group.name].kernel
            fed = [op for op in fed if self.file.tensors[op.inputs[1]].data.size == kernel.size]
            fed.sort(
                key=lambda op: not np.array_equal(kernel_of(self.file, op).ravel(), kernel.ravel())
            )
        if not fed:
            return None
        self.left.remove(fed[0])
        return fed[0]

    def sources(self, op: Op) -> list[Roots]:
        """Where the numbers an operator computes with come from, sorted: sums may be swapped."""
        return sorted(self.roots(index) for index in self.read(op))

    def operands(self, op: Op, sources: list[Roots]) -> tuple[int, ...]:
        """The tensors an operator computes with, in the order of the sources they come from."""
        left = self.read(op)
        return tuple(
            left.pop(next(i for i, tensor in enumerate(left) if self.roots(tensor) == source))
            for source in sources
        )

    def read(self, op: Op) -> list[int]:
        """The tensors an operator computes with that are not constants."""
        operands = op.inputs if op.name in OF_MANY else op.inputs[:1]
        return [index for index in operands if self.file.tensors[index].data is None]

    def roots(self, tensor: int) -> Roots:
        producer = self.producers.get(tensor)
        if producer is None or producer.name in COMPUTING:
            return (tensor,)
        moved = [i for i in producer.inputs if i >= 0 and self.file.tensors[i].data is None]
        if producer.name in CHOICES:
            moved.reverse()
        return _joined(self.roots(index) for index in moved)
