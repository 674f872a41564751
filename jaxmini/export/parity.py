"""Parity: is the file the network that was trained? Every stored number is compared with the frozen tree.

The comparison knows no converter: it walks the plan and the file side by side, along the data.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxmini.compress.quantize.frozen import Frozen, constant_name
from jaxmini.compress.quantize.grid import HIGH, LOW, Grid
from jaxmini.compress.quantize.plan import (
    AveragePool,
    Clamp,
    Elementwise,
    Group,
    Mean,
    Move,
    Plan,
    Rectifier,
    Weighted,
)
from jaxmini.compress.quantize.program import Value
from jaxmini.export.constraints import CHANNEL_AXIS
from jaxmini.export.flatbuffer import File, Op, Tensor, read

# The operators that each kind of group becomes. Operators of no kind move numbers.
OPERATORS: Mapping[type[Group], frozenset[str]] = {
    Weighted: frozenset(CHANNEL_AXIS),
    Elementwise: frozenset({"ADD", "SUB", "MUL"}),
    Mean: frozenset({"MEAN"}),
    AveragePool: frozenset({"AVERAGE_POOL_2D"}),
    Rectifier: frozenset({"RELU", "RELU6"}),
}
COMPUTING = frozenset().union(*OPERATORS.values())
HIGHEST = {"NONE": np.inf, "RELU": np.inf, "RELU6": 6.0}


class ParityError(ValueError):
    """The file does not hold the numbers of the frozen tree; the message lists where."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """How many stored numbers were compared, and found equal.

    Attributes:
        groups: of the plan, each with its operator in the file.
        grids: scales and zero points of activations.
        kernel_scales, kernel_integers, bias_integers: of the operators with a kernel.
        constant_integers: of the other constant operands.
    """

    groups: int = 0
    grids: int = 0
    kernel_scales: int = 0
    kernel_integers: int = 0
    bias_integers: int = 0
    constant_integers: int = 0


def check(source: File | Path | str | bytes, plan: Plan, frozen: Frozen) -> Parity:
    """Check that a file stores exactly the numbers of the frozen tree, each in its place.

    Args:
        source: an int8 file, its path or its bytes.
        plan: of a batch of one.
        frozen: the integers and grids it was exported from.

    Raises:
        ParityError: a scale, zero point, kernel, bias or rectifier differs, or an operator is missing or
            too many; lists all differences.
        ValueError: not a .tflite file.
    """
    comparison = _Comparison(source if isinstance(source, File) else read(source), plan, frozen)
    differences = comparison.run()
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise ParityError(f"the file is not the frozen network:\n{lines}")
    return Parity(**comparison.compared)


class _Comparison:
    """One walk along plan and file. ``compared`` counts numbers, by field of ``Parity``."""

    def __init__(self, file: File, plan: Plan, frozen: Frozen) -> None:
        self.file, self.plan, self.frozen = file, plan, frozen
        self.compared = {field.name: 0 for field in dataclasses.fields(Parity)}
        self.producers = {index: op for op in file.ops for index in op.outputs}
        self.unmatched = [op for op in file.ops if op.name in COMPUTING]
        # A root is where numbers were computed: everything that only moves them leads back to it.
        self.roots: dict[Value, tuple[int, ...]] = {plan.program.input: (file.inputs[0],)}

    def run(self) -> list[str]:
        differences = list(self._grid("input", self.file.inputs[0], "input"))
        for group in self.plan.groups:
            differences += self._group(group)
        differences += self._grid("output", self.file.outputs[0], self.plan.output_site)
        if self._file_roots(self.file.outputs[0]) != self.roots.get(self.plan.program.output):
            differences.append("output: the file's output is not computed by the plan's last group")
        return differences + [f"{op.name}: an operator that the plan does not have" for op in self.unmatched]

    def _group(self, group: Group) -> Iterator[str]:
        operands = [value for value in group.inputs if not self.plan.is_constant(value)]
        sources = [self.roots[value] for value in operands]
        if isinstance(group, Move):
            moved = tuple(root for roots in sources for root in roots)
            self.roots |= dict.fromkeys(group.outputs, moved)
            return
        op = self._find(group, sources)
        self.roots |= dict.fromkeys(group.outputs, () if op is None else (op.outputs[0],))
        if op is None:
            yield f"{group.name}: no operator of the file computes it"
            return
        self.unmatched.remove(op)
        self.compared["groups"] += 1
        yield from self._operands(group, op)
        yield from self._grid(group.name, op.outputs[0], group.site)
        yield from _rectifier(group, op, self.frozen.grids[group.site])
        if isinstance(group, Weighted):
            yield from self._kernel(group, op)

    def _find(self, group: Group, sources: list[tuple[int, ...]]) -> Op | None:
        """The operator that computes the group: of its kind, fed by what feeds it.

        Where several operators read the same tensor (parallel branches), the one that holds the group's
        kernel; where none does, the first whose kernel has its size, so that the difference is told.
        """
        found = [
            op
            for op in self.unmatched
            if op.name in OPERATORS[type(group)] and sorted(self._sources(op)) == sorted(sources)
        ]
        if not isinstance(group, Weighted) or len(found) < 2:
            return next(iter(found), None)
        kernel = self.frozen.kernels[group.name].kernel
        sized = [op for op in found if self.file.tensors[op.inputs[1]].data.size == kernel.size]
        equal = [op for op in sized if np.array_equal(_kernel(self.file, op).ravel(), kernel.ravel())]
        return next(iter(equal or sized), None)

    def _sources(self, op: Op) -> list[tuple[int, ...]]:
        data = op.inputs[:1] if op.name not in OPERATORS[Elementwise] else op.inputs
        return [self._file_roots(index) for index in data if self.file.tensors[index].data is None]

    def _file_roots(self, tensor: int) -> tuple[int, ...]:
        producer = self.producers.get(tensor)
        if producer is None or producer.name in COMPUTING:
            return (tensor,)
        data = [index for index in producer.inputs if index >= 0 and self.file.tensors[index].data is None]
        return tuple(root for index in data for root in self._file_roots(index))

    def _grid(self, where: str, tensor: int, site: str) -> Iterator[str]:
        yield from self._same_grid(where, self.file.tensors[tensor], self.frozen.grids[site])

    def _same_grid(self, where: str, tensor: Tensor, grid: Grid) -> Iterator[str]:
        stored = [(np.float32(s), int(z)) for s, z in zip(tensor.scale, tensor.zero_point, strict=True)]
        frozen = (np.float32(grid.scale), int(grid.zero_point))
        self.compared["grids"] += 1
        if stored != [frozen]:
            yield f"{where}: grid {stored} of {tensor.name!r}, frozen {frozen}"

    def _operands(self, group: Group, op: Op) -> Iterator[str]:
        """The grids of what a group reads, and the integers of its constants."""
        read_sites = [self.plan.site_of[v] for v in group.inputs if not self.plan.is_constant(v)]
        inputs = [self.file.tensors[index] for index in op.inputs]
        activations = [tensor for tensor in inputs if tensor.data is None and tensor.is_quantized]
        if len(set(read_sites)) == 1:
            for tensor in activations:
                yield from self._same_grid(f"{group.name} input", tensor, self.frozen.grids[read_sites[0]])
        else:
            yield from self._unordered_grids(group, activations, read_sites)
        if isinstance(group, Elementwise):
            constants = [tensor for tensor in inputs if tensor.data is not None]
            yield from self._constants(group, constants)

    def _unordered_grids(self, group: Group, tensors: list[Tensor], sites: list[str]) -> Iterator[str]:
        """The grids of the operands of a sum or product, which a converter may swap."""
        stored = sorted((float(t.scale[0]), int(t.zero_point[0])) for t in tensors)
        grids = [self.frozen.grids[site] for site in sites]
        frozen = sorted((float(np.float32(g.scale)), int(g.zero_point)) for g in grids)
        self.compared["grids"] += len(frozen)
        if stored != frozen:
            yield f"{group.name}: grids of the operands {stored}, frozen {frozen}"

    def _constants(self, group: Group, stored: list[Tensor]) -> Iterator[str]:
        positions = [i for i, value in enumerate(group.inputs) if self.plan.is_constant(value)]
        if len(positions) != len(stored):
            yield f"{group.name}: {len(stored)} constant operands, frozen {len(positions)}"
            return
        for position, tensor in zip(positions, stored, strict=True):
            frozen = self.frozen.constants[constant_name(group.name, position)]
            yield from self._same_grid(f"{group.name} constant", tensor, frozen.grid)
            yield from self._integers(
                f"{group.name} constant", "constant_integers", _spread(tensor.data, frozen.values), frozen.values
            )

    def _kernel(self, group: Weighted, op: Op) -> Iterator[str]:
        frozen = self.frozen.kernels[group.name]
        kernel = self.file.tensors[op.inputs[1]]
        scale = _spread(kernel.scale, frozen.scale)
        yield from self._integers(f"{group.name} kernel scale", "kernel_scales", scale, frozen.scale)
        yield from self._integers(
            f"{group.name} kernel", "kernel_integers", _kernel(self.file, op), frozen.kernel
        )
        has_bias = len(op.inputs) > 2 and op.inputs[2] >= 0
        bias = self.file.tensors[op.inputs[2]].data if has_bias else np.zeros_like(frozen.bias)
        yield from self._integers(f"{group.name} bias", "bias_integers", bias, frozen.bias)

    def _integers(
        self, where: str, counter: str, stored: np.ndarray, frozen: np.ndarray
    ) -> Iterator[str]:
        stored, frozen = np.ravel(stored), np.ravel(frozen)
        self.compared[counter] += frozen.size
        if stored.size != frozen.size:
            yield f"{where}: {stored.size} numbers, frozen {frozen.size}"
        elif different := int(np.count_nonzero(stored != frozen)):
            first = int(np.argmax(stored != frozen))
            yield (
                f"{where}: {different} of {frozen.size} differ, "
                f"the first at {first}: {stored[first]}, frozen {frozen[first]}"
            )


def _kernel(file: File, op: Op) -> np.ndarray:
    """The kernel of an operator with its output channels last, as JAX has it."""
    return np.moveaxis(file.tensors[op.inputs[1]].data, CHANNEL_AXIS[op.name], -1)


def _spread(stored: np.ndarray, like: np.ndarray) -> np.ndarray:
    """One number where the frozen tree has many: converters fold equal ones."""
    return np.broadcast_to(stored.ravel(), like.shape) if stored.size == 1 else stored


def _rectifier(group: Group, op: Op, grid: Grid) -> Iterator[str]:
    """The integers a group's outputs are held to: a rectifier may hide in the ends of the grid."""
    clamp = getattr(group, "clamp", None)
    wanted = _bounds(None if clamp is None else clamp.high, grid)
    name = op.name if isinstance(group, Rectifier) else op.activation
    if name not in HIGHEST:
        yield f"{group.name}: the file's rectifier {name} is unknown"
    elif (stored := _bounds(None if name == "NONE" else HIGHEST[name], grid)) != wanted:
        yield f"{group.name}: outputs are held to {stored} by {name}, frozen {wanted} by {clamp}"


def _bounds(high: float | None, grid: Grid) -> tuple[int, int]:
    zero_point, scale = int(grid.zero_point), np.float64(grid.scale)
    if high is None:
        return LOW, HIGH
    return max(LOW, zero_point), int(min(HIGH, np.round(high / scale) + zero_point))


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far two arrays of int8 logits are apart, in steps of their grid (LSB).

    Attributes:
        largest: the largest difference.
        share: of the logits that differ, 0..1.
        histogram: difference -> how many logits.
        agreement: share of the examples with the same first class.
    """

    largest: int
    share: float
    histogram: dict[int, int]
    agreement: float


def compare(expected: np.ndarray, answers: np.ndarray) -> Distance:
    """How far the answers of a file (or of other kernels) are from those expected.

    Args:
        expected: integers [N, C], of the integer simulation.
        answers: integers [N, C], of the file on the same images.

    Raises:
        ValueError: shapes differ, there are no examples, or the numbers are not integers.
    """
    expected, answers = np.asarray(expected), np.asarray(answers)
    if expected.ndim != 2 or expected.shape != answers.shape or not len(expected):
        raise ValueError(
            f"compare: expected logits {list(expected.shape)} and {list(answers.shape)} are not alike"
        )
    if not all(np.issubdtype(array.dtype, np.integer) for array in (expected, answers)):
        raise ValueError(f"compare: logits are {expected.dtype} and {answers.dtype}, not integers")
    steps = np.abs(expected.astype(np.int64) - answers.astype(np.int64))
    values, counts = np.unique(steps, return_counts=True)
    return Distance(
        largest=int(steps.max()),
        share=float(np.mean(steps > 0)),
        histogram={int(value): int(count) for value, count in zip(values, counts, strict=True)},
        agreement=float(np.mean(expected.argmax(-1) == answers.argmax(-1))),
    )
