"""Correspondence: which operator of a file computes which group of the plan.

Plan and file are walked side by side, along the data. No name is compared, so it does not matter which
converter wrote the file, nor in what order it put branches.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmini.compress.quantize import functions
from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.functions import Apply
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.grouping import PASSES_RECTIFIER
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
from jaxmini.export.fused import unfused
from jaxmini.export.islands import ISLAND, collapsed
from jaxmini.export.origins import Roots, Runs, are_other, counts, moved, roots_of

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

# What leaves every number, in the order that numbers were joined in.
JOINS = frozenset({"concatenate", "stack", "CONCATENATION", "PACK"})
WHOLE = JOINS | {
    "copy",
    "reshape",
    "squeeze",
    "stop_gradient",
    "transpose",
    "EXPAND_DIMS",
    "RESHAPE",
    "SQUEEZE",
    "TRANSPOSE",
}


class Correspondence(NamedTuple):
    """A plan beside a file.

    Attributes:
        pairs: every group that computes, and its operator; None where the file has none.
        extra: operators that compute and belong to no group.
        output_agrees: whether the file's output comes from where the plan's does.
        operands: by the name of each group with an operator, the tensors the operator reads for the
            group's operands, in their order; constants are left out.
        otherwise: by the name of a group, or ``output``, what its operator reads is joined of, and what it
            should be, where these are not the same.
        rectified: by the name of a group, the rectifier that its operator computes too: a converter fuses
            one that alone reads what was rounded before, which changes no integer.
    """

    pairs: list[tuple[Group, Op | None]]
    extra: list[Op]
    output_agrees: bool
    operands: dict[str, tuple[int, ...]]
    otherwise: dict[str, tuple[str, str]]
    rectified: dict[str, Rectifier]


def correspond(file: File, plan: Plan, frozen: Frozen) -> Correspondence:
    """Which operator computes which group.

    Where several operators read the same tensor (parallel branches), a group takes the one that holds its
    kernel; where none does, the first whose kernel has its size, so that the difference can be told.

    Args:
        file: of integers.
        plan: for the batch of the file.
        frozen: holds the kernels that tell parallel branches apart.
    """
    walk = _Walk(unfused(collapsed(file), COMPUTING))
    runs: dict[Value, Runs] = {plan.program.input: walk.runs(file.inputs[0])}
    pairs: list[tuple[Group, Op | None]] = []
    operands: dict[str, tuple[int, ...]] = {}
    otherwise: dict[str, tuple[str, str]] = {}
    rectified: dict[str, Rectifier] = {}

    def compare(where: str, tensor: int, expected: Runs) -> None:
        if are_other(expected, found := walk.runs(tensor)):
            otherwise[where] = counts(found), counts(expected)

    for group in plan.groups:
        sources = [runs[value] for value in group.inputs if not plan.is_constant(value)]
        op = None if isinstance(group, Move) else walk.take(group, sources, frozen)
        if op is None and (maker := _fused_with(group, plan, pairs)) is not None:
            rectified[maker.name] = group
            runs |= dict.fromkeys(group.outputs, *sources)
            continue
        if op is None and _only_moves(group, plan, frozen):
            whole = group.op.name in WHOLE
            for value in group.outputs:
                size = math.prod(plan.program.shape(value))
                runs[value] = moved(sources, size, whole=whole)
            continue
        pairs.append((group, op))
        runs |= dict.fromkeys(group.outputs, () if op is None else walk.runs(op.outputs[0]))
        if op is not None:
            operands[group.name] = walk.operands(op, sources)
            for tensor, expected in zip(operands[group.name], sources, strict=True):
                compare(group.name, tensor, expected)
    found, expected = walk.runs(file.outputs[0]), runs[plan.output]
    output_agrees = roots_of(found) == roots_of(expected)
    if output_agrees:
        compare("output", file.outputs[0], expected)
    return Correspondence(pairs, walk.left, output_agrees, operands, otherwise, rectified)


def kernel_of(file: File, op: Op) -> np.ndarray:
    """The integers of an operator's kernel with the output channels last, as JAX has them."""
    return np.moveaxis(file.tensors[op.inputs[1]].data, CHANNEL_AXIS[op.name], -1)


def held_to(high: float | None, grid: Grid) -> tuple[int, int]:
    """The integers that a rectifier holds those of a grid to; all of the grid where there is none."""
    if high is None:
        return grid.low, grid.high
    zero_point = int(grid.zero_point)
    top = np.round(high / np.float64(grid.scale)) + zero_point
    return max(grid.low, zero_point), int(min(grid.high, top))


def _only_moves(group: Group, plan: Plan, frozen: Frozen) -> bool:
    """Whether a group computes nothing, and a converter may leave it out.

    So it may a rectifier that holds numbers to the ends of their grid, and write the mean of one number as
    a reshape.
    """
    if isinstance(group, Rectifier):
        grid = frozen.grids[group.site]
        return held_to(group.clamp.high, grid) == (grid.low, grid.high)
    return isinstance(group, Move) or (isinstance(group, Mean) and group.count == 1)


def _fused_with(group: Group, plan: Plan, pairs: Sequence[tuple[Group, Op | None]]) -> Group | None:
    """The group whose operator rectifies as ``group``, a rectifier behind it, does; None if none does.

    Moves may be between the two: it is the same before and behind them. Nothing else may read any of it.
    """
    rectifying = {group.name for group, op in pairs if op is not None and op.activation != "NONE"}
    maker = group if isinstance(group, Rectifier) else None
    while maker is not None and maker.name not in rectifying:
        is_passed = maker is group or (
            isinstance(maker, Move) and maker.op.name in PASSES_RECTIFIER
        )
        maker = _alone_before(maker, plan) if is_passed else None
    return maker


def _alone_before(group: Group, plan: Plan) -> Group | None:
    """The group that computes what ``group`` alone reads; None if there is more than that."""
    source = group.inputs[0]
    readers = [reader for reader in plan.groups if source in reader.inputs]
    if len(group.inputs) > 1 or len(readers) > 1 or source == plan.output:
        return None
    return next((maker for maker in plan.groups if source in maker.outputs), None)


class _Walk:
    """The file's side: ``left`` are the operators that compute and have no group yet."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.producers = {index: op for op in file.ops for index in op.outputs}
        self.left = [op for op in file.ops if op.name in COMPUTING]
        self._runs: dict[int, Runs] = {}

    def take(self, group: Group, sources: list[Runs], frozen: Frozen) -> Op | None:
        names = {group.kind.operator} if isinstance(group, Apply) else OPERATORS[type(group)]
        wanted = sorted(map(roots_of, sources))
        fed = [op for op in self.left if op.name in names and self.sources(op) == wanted]
        exact = sorted(sources, key=str)
        fed.sort(key=lambda op: sorted(map(self.runs, self.read(op)), key=str) != exact)
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
        return sorted(roots_of(self.runs(index)) for index in self.read(op))

    def operands(self, op: Op, sources: list[Runs]) -> tuple[int, ...]:
        """The tensors an operator computes with, in the order of the sources they come from."""
        left, found = self.read(op), []
        for source in sources:
            alike = [t for t in left if roots_of(self.runs(t)) == roots_of(source)]
            found.append(next((t for t in alike if self.runs(t) == source), alike[0]))
            left.remove(found[-1])
        return tuple(found)

    def read(self, op: Op) -> list[int]:
        """The tensors an operator computes with that are not constants."""
        operands = op.inputs if op.name in OF_MANY else op.inputs[:1]
        return [index for index in operands if self.file.tensors[index].data is None]

    def runs(self, tensor: int) -> Runs:
        """Where the numbers of a tensor were computed."""
        if tensor not in self._runs:
            self._runs[tensor] = self._found(tensor)
        return self._runs[tensor]

    def _found(self, tensor: int) -> Runs:
        producer, size = self.producers.get(tensor), math.prod(self.file.tensors[tensor].shape)
        if producer is None or producer.name in COMPUTING:
            return ((tensor, size),)
        read = [i for i in producer.inputs if i >= 0 and self.file.tensors[i].data is None]
        if producer.name in CHOICES:
            read.reverse()
        return moved(map(self.runs, read), size, whole=producer.name in WHOLE)
