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

    An island is what float numbers connect. Operators in float that do not both come from integers and end
    in one QUANTIZE stay as they are.
    """
    ops = list(file.ops)
    for parts in _connected(file):
        first = [op for op in parts if op.name == "DEQUANTIZE"]
        last = [op for op in parts if op.name == "QUANTIZE"]
        if first and len(last) == 1 and len(parts) > 2:
            sources = tuple(dict.fromkeys(_origin(file, op.inputs[0]) for op in first))
            position = max(index for index, op in enumerate(ops) if op is last[0])
            ops[position] = FloatOp(ISLAND, sources, last[0].outputs, "NONE", tuple(parts))
            ops = [op for op in ops if not any(op is part for part in parts)]
    return dataclasses.replace(file, ops=tuple(ops))


def _origin(file: File, tensor: int) -> int:
    """The tensor that a tensor has the integers of, in other rows and columns."""
    producer = file.producer(tensor)
    while producer is not None and producer.name == "RESHAPE":
        tensor = producer.inputs[0]
        producer = file.producer(tensor)
    return tensor


def _connected(file: File) -> Iterable[list[Op]]:
    """The operators that read or write float numbers, by what float numbers connect."""
    groups: list[tuple[set[int], list[Op]]] = []
    for op in file.ops:
        tensors = {index for index in (*op.inputs, *op.outputs) if _is_float(file, index)}
        if not tensors:
            continue
        joined = [group for group in groups if group[0] & tensors]
        groups = [group for group in groups if group not in joined]
        merged = [own for _, ops in joined for own in ops]
        groups.append((tensors.union(*(known for known, _ in joined)), [*merged, op]))
    return [ops for _, ops in groups]


def _is_float(file: File, index: int) -> bool:
    """Whether a tensor is computed in float, or is yes and no of what is; constants connect nothing."""
    tensor = file.tensors[index]
    return index >= 0 and tensor.dtype in (np.float32, np.bool_) and tensor.data is None
