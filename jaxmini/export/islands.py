"""Islands of a file: what it computes in float between integers, each as one operator."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.plan import Plan
from jaxmini.export.flatbuffer import File, Op

ISLAND = "FLOAT_ISLAND"

# What a normalisation becomes; a declared island may hold any operator of the schema.
NORMALIZATION = frozenset(
    {
        "ADD",
        "BROADCAST_TO",
        "DIV",
        "L2_NORMALIZATION",
        "MAXIMUM",
        "MEAN",
        "MUL",
        "NEG",
        "RELU",
        "RELU6",
        "RESHAPE",
        "RSQRT",
        "SQRT",
        "SQUARE",
        "SQUARED_DIFFERENCE",
        "SQUEEZE",
        "SUB",
        "SUM",
    }
)


@dataclasses.dataclass(frozen=True)
class FloatOp(Op):
    """An island as one operator, from int8 tensors to an int8 tensor.

    Attributes:
        parts: its operators, the DEQUANTIZE and QUANTIZE at its shores too.
    """

    parts: tuple[Op, ...] = ()

    @property
    def inland(self) -> tuple[Op, ...]:
        """The operators in float."""
        return tuple(op for op in self.parts if op.name not in ("DEQUANTIZE", "QUANTIZE"))


@dataclasses.dataclass(frozen=True)
class Allowed:
    """An island that a file may hold.

    Attributes:
        name: of the group of the plan.
        inputs: (scale, zero point) of each integer tensor it reads, sorted.
        output: of the one that it leaves.
        operators: the float operators it may hold, None for any.
    """

    name: str
    inputs: tuple[tuple[float, int], ...]
    output: tuple[float, int]
    operators: frozenset[str] | None


def allowed(plan: Plan, frozen: Frozen) -> tuple[Allowed, ...]:
    """The islands of a plan."""

    def grid(site: str) -> tuple[float, int]:
        return pair(frozen.grids[site])

    return tuple(
        Allowed(
            island.name,
            tuple(sorted(grid(plan.site_of[value]) for value in island.inputs)),
            grid(island.site),
            None if island.declared else NORMALIZATION,
        )
        for island in plan.groups
        if isinstance(island, Island)
    )


def pair(grid: Grid) -> tuple[float, int]:
    """The scale as a file stores it, and the zero point."""
    return float(np.float32(grid.scale)), int(grid.zero_point)


def collapsed(file: File) -> File:
    """The file with each island as one operator, ``FloatOp``.

    An island is what a QUANTIZE is computed of; what converters merged of several belongs to each. Operators
    in float that do not come from integers, or lead to no QUANTIZE, stay as they are with all that float
    numbers connect them with.
    """
    ops = list(file.ops)
    for parts in _connected(file):
        islands = [_leading_to(op, parts) for op in parts if op.name == "QUANTIZE"]
        if not all(map(_is_whole, islands)) or len({id(op) for i in islands for op in i}) < len(
            parts
        ):
            continue
        for island in islands:
            first = [op.inputs[0] for op in island if op.name == "DEQUANTIZE"]
            sources = tuple(dict.fromkeys(_origin(file, index) for index in first))
            position = next(index for index, op in enumerate(ops) if op is island[-1])
            ops[position] = FloatOp(ISLAND, sources, island[-1].outputs, parts=island)
        ops = [op for op in ops if not any(op is part for part in parts)]
    return dataclasses.replace(file, ops=tuple(ops))


def _leading_to(last: Op, ops: list[Op]) -> tuple[Op, ...]:
    """The operators, in their order, that an operator is computed of, and itself."""
    needed, found = set(last.inputs), [last]
    for op in reversed(ops[: ops.index(last)]):
        if needed.intersection(op.outputs):
            needed.update(op.inputs)
            found.append(op)
    return tuple(reversed(found))


def _is_whole(island: tuple[Op, ...]) -> bool:
    return len(island) > 2 and any(op.name == "DEQUANTIZE" for op in island)


def _origin(file: File, tensor: int) -> int:
    """The tensor that a tensor has the integers of, in other rows and columns."""
    producer = file.producer(tensor)
    while producer is not None and producer.name == "RESHAPE":
        tensor = producer.inputs[0]
        producer = file.producer(tensor)
    return tensor


def _connected(file: File) -> Iterable[list[Op]]:
    """The operators that read or write float numbers, in their order, by what float numbers connect."""
    groups: list[tuple[set[int], list[Op]]] = []
    for op in file.ops:
        tensors = {index for index in (*op.inputs, *op.outputs) if _is_float(file, index)}
        if not tensors:
            continue
        joined = [group for group in groups if group[0] & tensors]
        groups = [group for group in groups if group not in joined]
        merged = [own for _, ops in joined for own in ops]
        groups.append((tensors.union(*(known for known, _ in joined)), [*merged, op]))
    places = {id(op): place for place, op in enumerate(file.ops)}
    return [sorted(ops, key=lambda op: places[id(op)]) for _, ops in groups]


def _is_float(file: File, index: int) -> bool:
    """Whether a tensor is computed in float, or is yes and no of what is; constants connect nothing."""
    tensor = file.tensors[index]
    return index >= 0 and tensor.dtype in (np.float32, np.bool_) and tensor.data is None
