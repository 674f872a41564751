"""Parity: is the file the network that was trained? Every stored number is compared with the frozen tree."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxmini.compress.quantize.frozen import Frozen, FrozenConstant, operand_name
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import (
    INPUT,
    Elementwise,
    Group,
    Move,
    Plan,
    Rectifier,
    Weighted,
)
from jaxmini.export import edges
from jaxmini.export.correspondence import COMPUTING, correspond, held_to, kernel_of
from jaxmini.export.flatbuffer import File, Op, Tensor, read
from jaxmini.export.fused import unfused

# Rectifiers of the schema: the largest number each lets through.
HIGHEST = {"NONE": None, "RELU": np.inf, "RELU6": 6.0}
# Operators between what a mask may add, for no and for yes, and the addition.
LOOKED_UP = frozenset({"GATHER", "GATHER_ND", "RESHAPE"})


class ParityError(ValueError):
    """The file does not hold the numbers of the frozen tree; the message lists where."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """How many stored numbers were compared.

    Attributes:
        groups: of the plan, each with its operator in the file.
        grids: scales and zero points of activations.
        kernel_scales, kernel_integers, bias_integers: of the operators with a kernel.
        bias_floats: of those that compute in float.
        constant_integers: of the other constant operands.
        island_floats: of what islands hold of the variables.
    """

    groups: int = 0
    grids: int = 0
    kernel_scales: int = 0
    kernel_integers: int = 0
    bias_integers: int = 0
    constant_integers: int = 0
    island_floats: int = 0
    bias_floats: int = 0


def check(source: File | Path | str | bytes, plan: Plan, frozen: Frozen) -> Parity:
    """Check that a file stores exactly the numbers of the frozen tree, each in its place.

    Args:
        source: an integer file, its path or its bytes; other types at its ends are looked through.
        plan: of the file's batch.
        frozen: the integers and grids it was exported from.

    Raises:
        ParityError: a scale, zero point, kernel, bias or rectifier differs, or an operator is missing or
            too many; lists all differences.
        ValueError: not a .tflite file.
    """
    compared, differences = differing(source, plan, frozen)
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise ParityError(f"the file is not the frozen network:\n{lines}")
    return compared


def differing(
    source: File | Path | str | bytes, plan: Plan, frozen: Frozen
) -> tuple[Parity, tuple[str, ...]]:
    """How many stored numbers were compared, and a line for each difference; arguments as of ``check``.

    Raises:
        ValueError: not a .tflite file.
    """
    file = source if isinstance(source, File) else read(source)
    comparison = _Comparison(edges.core(file), plan, frozen)
    ends = () if plan.reads_tokens else edges.differences(file, *_pair(frozen.grids[INPUT]))
    found = (*ends, *comparison.differences())
    return Parity(**comparison.compared), found


class _Comparison:
    """``differences`` walks every number once; ``compared`` counts them, by field of ``Parity``."""

    def __init__(self, file: File, plan: Plan, frozen: Frozen) -> None:
        self.file, self.plan, self.frozen = unfused(file, COMPUTING), plan, frozen
        self.compared = {field.name: 0 for field in dataclasses.fields(Parity)}

    def differences(self) -> Iterator[str]:
        found = correspond(self.file, self.plan, self.frozen)
        grids = self.frozen.grids
        if not self.plan.reads_tokens:
            yield from self.grids("input", self.file.inputs, [grids[INPUT]])
        yield from self.grids("output", self.file.outputs, [grids[self.plan.output_site]])
        for group, op in found.pairs:
            if op is None:
                yield f"{group.name}: no operator of the file computes it"
            else:
                yield from self.group(group, op, found.rectified.get(group.name))
        yield from self.moved_constants()
        for op in found.extra:
            yield f"{op.name}: an operator that the plan does not have"
        for where, (stored, wanted) in found.otherwise.items():
            yield f"{where}: what it reads is joined of {stored}, frozen {wanted}"
        if not found.output_agrees:
            yield "output: the file's output is not what the plan's last group computes"

    def group(self, group: Group, op: Op, behind: Rectifier | None) -> Iterator[str]:
        self.compared["groups"] += 1
        positions = range(len(group.inputs))
        known = [self.plan.is_constant(value) for value in group.inputs]
        read = [self.grid_of(group, position) for position in positions if not known[position]]
        computed = [i for i in op.inputs if i >= 0 and self.file.tensors[i].data is None]
        yield from self.grids(f"{group.name} input", computed, read)
        yield from self.grids(group.name, op.outputs, [self.frozen.grids[group.site]])
        yield from self.rectifier(group, op, behind)
        if isinstance(group, Weighted):
            yield from self.kernel(group, op)
        if isinstance(group, Elementwise | Mask):
            yield from self.constants(group, op)
        if isinstance(group, Island):
            yield from self.held(group, op)

    def grid_of(self, group: Group, position: int) -> Grid:
        """The grid of an operand that is computed; what a mask adds by a question is frozen."""
        site = self.plan.site_of[group.inputs[position]]
        if isinstance(group, Mask) and position:
            return self.frozen.constants[operand_name(group, position)].grid
        return self.frozen.grids[site]

    def grids(
        self, where: str, tensors: tuple[int, ...] | list[int], wanted: list[Grid]
    ) -> Iterator[str]:
        """The grids of some tensors; in any order, as a converter may swap the operands of a sum."""
        stored = sorted(_stored_grid(self.file.tensors[index]) for index in tensors)
        frozen = sorted(map(_pair, wanted))
        self.compared["grids"] += len(frozen)
        if stored != frozen:
            yield f"{where}: (scale, zero point) is {_listed(stored)}, frozen {_listed(frozen)}"

    def kernel(self, group: Weighted, op: Op) -> Iterator[str]:
        frozen = self.frozen.kernels[group.name]
        scale = _spread(self.file.tensors[op.inputs[1]].scale, frozen.scale)
        has_bias = len(op.inputs) > 2 and op.inputs[2] >= 0
        bias = self.file.tensors[op.inputs[2]].data if has_bias else np.zeros_like(frozen.bias)
        kernel = kernel_of(self.file, op)
        yield from self.numbers(f"{group.name} kernel scale", "kernel_scales", scale, frozen.scale)
        yield from self.numbers(f"{group.name} kernel", "kernel_integers", kernel, frozen.kernel)
        yield from self.numbers(f"{group.name} bias", "bias_integers", bias, frozen.bias)

    def held(self, group: Island, op: Op) -> Iterator[str]:
        """What a normalisation holds must be in its island; a declared one is not looked into."""
        if group.declared:
            return
        tensors = [self.file.tensors[i] for part in op.parts for i in part.inputs if i >= 0]
        stored = [tensor.data.ravel() for tensor in tensors if tensor.data is not None]
        for position, values in enumerate(self.frozen.held(group)):
            self.compared["island_floats"] += values.size
            if not any(map(functools.partial(_is_stored, values.ravel()), stored)) and not (
                np.all(values == 0) or np.all(values == 1)  # converters leave out what does nothing
            ):
                yield f"{group.name}: what it holds, number {position}, is not in its island"

    def constants(self, group: Elementwise | Mask, op: Op) -> Iterator[str]:
        stored = [self.file.tensors[i] for i in self.read(group, op)]
        stored = [tensor for tensor in stored if tensor.data is not None]
        frozen = self.constants_of(group)
        if len(stored) != len(frozen):
            yield f"{group.name}: {len(stored)} constant operands, frozen {len(frozen)}"
            return
        for tensor, constant in zip(stored, frozen, strict=True):
            where = f"{group.name} constant"
            if _stored_grid(tensor) != _pair(constant.grid):
                yield f"{where}: (scale, zero point) is {_stored_grid(tensor)}, frozen {_pair(constant.grid)}"
            values = _spread(tensor.data, constant.values)
            yield from self.numbers(where, "constant_integers", values, constant.values)

    def read(self, group: Group, op: Op) -> Iterator[int]:
        """The tensors that an operator reads; of a mask by tokens the table that its addend is of."""
        if not (isinstance(group, Mask) and group.kept is None):
            yield from op.inputs
            return
        wanted = _pair(self.grid_of(group, 1))
        for index in op.inputs:
            if _stored_grid(self.file.tensors[index]) == wanted:
                while (by := self.file.producer(index)) is not None and by.name in LOOKED_UP:
                    index = by.inputs[0]
                yield index

    def moved_constants(self) -> Iterator[str]:
        """The constants of concatenations: each must be an operand of some operator that moves numbers."""
        moving = [op for op in self.file.ops if op.name not in COMPUTING]
        operands = [self.file.tensors[i] for op in moving for i in op.inputs if i >= 0]
        stored = [
            (t.data, _stored_grid(t)) for t in operands if t.data is not None and t.is_quantized
        ]
        for group in self.plan.groups:
            for constant in self.constants_of(group) if isinstance(group, Move) else []:
                self.compared["constant_integers"] += constant.values.size
                wanted, grid = constant.values.ravel(), _pair(constant.grid)
                if not any(
                    grid == own and np.array_equal(_once(data, wanted).ravel(), wanted)
                    for data, own in stored
                ):
                    yield f"{group.name}: a constant operand of it is not in the file"

    def constants_of(self, group: Group) -> list[FrozenConstant]:
        if isinstance(group, Mask):
            return [self.frozen.constants[operand_name(group, 1)]]
        positions = [i for i, value in enumerate(group.inputs) if self.plan.is_constant(value)]
        return [self.frozen.constants[operand_name(group, position)] for position in positions]

    def numbers(
        self, where: str, counter: str, stored: np.ndarray, frozen: np.ndarray
    ) -> Iterator[str]:
        self.compared[counter] += np.size(frozen)
        yield from numbers(where, stored, frozen)

    def rectifier(self, group: Group, op: Op, behind: Rectifier | None) -> Iterator[str]:
        """The integers that outputs are held to: a rectifier may hide in the ends of the grid."""
        grid, ends = self.frozen.grids[group.site], (group, behind)
        clamps = [clamp for end in ends if (clamp := getattr(end, "clamp", None)) is not None]
        clamp = min(clamps, key=lambda clamp: clamp.high, default=None)
        name = op.name if isinstance(group, Rectifier) else op.activation
        if name not in HIGHEST:
            yield f"{group.name}: the file's rectifier {name} is unknown"
            return
        stored, frozen = held_to(HIGHEST[name], grid), held_to(clamp and clamp.high, grid)
        if stored != frozen:
            yield f"{group.name}: outputs are held to {stored} by {name}, frozen {frozen} by {clamp}"


def numbers(where: str, stored: np.ndarray, frozen: np.ndarray) -> Iterator[str]:
    """A line that says how numbers of a file differ from the frozen ones; none where they do not."""
    stored, frozen = np.ravel(stored), np.ravel(frozen)
    if stored.size != frozen.size:
        yield f"{where}: {stored.size} numbers, frozen {frozen.size}"
    elif different := int(np.count_nonzero(stored != frozen)):
        first = int(np.argmax(stored != frozen))
        yield (
            f"{where}: {different} of {frozen.size} differ, "
            f"the first at {first}: {stored[first]}, frozen {frozen[first]}"
        )


def _is_stored(values: np.ndarray, data: np.ndarray) -> bool:
    return np.array_equal(np.broadcast_to(data, values.shape) if data.size == 1 else data, values)


def _pair(grid: Grid) -> tuple[float, int]:
    return float(np.float32(grid.scale)), int(grid.zero_point)


def _stored_grid(tensor: Tensor) -> tuple[float, int] | tuple[()]:
    """(scale, zero point) of an activation; () where it has none."""
    return (float(tensor.scale[0]), int(tensor.zero_point[0])) if tensor.scale.size == 1 else ()


def _listed(grids: list[tuple]) -> str:
    return ", ".join(map(str, grids))


def _spread(stored: np.ndarray, like: np.ndarray) -> np.ndarray:
    """One number where the frozen tree has many: converters fold equal ones."""
    if stored.size == 1:
        return np.broadcast_to(stored.reshape(()), like.shape)
    return _once(stored, like)


def _once(stored: np.ndarray, like: np.ndarray) -> np.ndarray:
    """What a file repeats for each example, once, as the frozen tree has it."""
    if not like.size or stored.size % like.size:
        return stored
    rows = stored.reshape(-1, like.size)
    return rows[0] if (rows == rows[:1]).all() else stored
