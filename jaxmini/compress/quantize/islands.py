"""Islands: runs of operations that the integer file computes in float, between integers and integers.

A normalisation by statistics of its own input (LayerNorm, RMSNorm, GroupNorm) has no integer kernel and is
an island by itself, unless a scheme wants it in integers (``norms``); anything else is one where a scheme
declares it.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.patterns import rectified
from jaxmini.compress.quantize.program import Op, dependents, needed
from jaxmini.compress.quantize.refusal import KNOWN_BEFORE, check_float32, refuse
from jaxmini.compress.quantize.subgraph import Subgraph, read_by, seen_outside

# What a normalisation is made of: moments over some axes, and arithmetic. Not products with kernels.
NORMALIZES = frozenset(
    {
        "add",
        "broadcast_in_dim",
        "copy",
        "div",
        "integer_pow",
        "max",
        "mul",
        "neg",
        "reduce_sum",
        "relu",
        "relu6",
        "reshape",
        "rsqrt",
        "sqrt",
        "square",
        "squeeze",
        "stop_gradient",
        "sub",
    }
)


@dataclasses.dataclass(frozen=True)
class float_island:
    """Compute the modules whose path matches a pattern in float, between integers and integers.

    Each module is one island, which leaves one array. The integer file holds DEQUANTIZE, float operators
    and QUANTIZE there, so a target without floating point cannot run it.

    Attributes:
        pattern: a glob, case-sensitive, on the path of a module with or without the network's own name
            (``Net/block/gate``, ``block/*``); ``*`` matches any text, slashes too.
    """

    pattern: str

    def __post_init__(self) -> None:
        if not (isinstance(self.pattern, str) and self.pattern):
            raise TypeError(
                f"float_island: pattern is {self.pattern!r}, expected a glob as 'block/*'"
            )

    def module(self, path: str) -> str | None:
        """The outermost module of a path that matches; None if none does."""
        return next((module for module in modules(path) if self._matches(module)), None)

    def _matches(self, module: str) -> bool:
        _, _, rest = module.partition("/")
        return any(fnmatchcase(form, self.pattern) for form in (module, rest) if form)


@dataclasses.dataclass(frozen=True, eq=False)
class Island(Subgraph):
    """Operations in float, from the numbers that the inputs' integers stand for.

    Attributes:
        declared: by a ``float_island`` of the scheme; else it is a normalisation.
    """

    declared: bool = False

    @property
    def in_float(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"float island of {len(self.ops)} operations"


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """The operations of an island to be; ``root`` is that of the variance, of a normalisation."""

    name: str
    ops: tuple[Op, ...]
    declared: bool
    root: Op | None = None

    def place(self, grouping: Grouping) -> None:
        """Append the island; all that it reads has been placed."""
        reads, held = read_by(grouping, self.ops)
        for op in self.ops:
            check_float32(op, grouping.program, answers=op is not self.ops[-1])
            if not all(self._is_number(grouping, value) for value in reads):
                refuse(op, "the island reads the numbers of tokens", KNOWN_BEFORE, in_float=False)
        inputs = tuple(map(grouping.resolved, reads))
        name, last = grouping.unique(self.name), self.ops[-1]
        grouping.add(
            Island(name, name, inputs, last.outputs, last, self.ops, reads, held, self.declared)
        )

    @staticmethod
    def _is_number(grouping: Grouping, value: int) -> bool:
        """Whether a value has been placed on a grid: token numbers and masks by them are on none."""
        is_float = grouping.program.types[value].dtype == np.float32
        return is_float and grouping.resolved(value) in grouping.site_of


def modules(path: str) -> list[str]:
    """The modules that a path goes through, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def find(grouping: Grouping, declared: Sequence[float_island] = ()) -> Mapping[int, Region]:
    """The islands of a program by the value they leave; their operations are taken.

    Raises:
        ValueError: a declared island matches nothing, or leaves other than one array, or its numbers leave
            it and come back.
    """
    active = [op for op in grouping.program.ops if grouping.is_activation(op.outputs[0])]
    regions: dict[int, Region] = {}
    for region in (*_declared(grouping, active, declared), *_normalizations(grouping, active)):
        if all(op.outputs[0] not in grouping.taken for op in region.ops):
            regions[region.ops[-1].outputs[0]] = region
            for op in region.ops:
                grouping.take(op)
    return regions


# -- islands that a scheme declares


def _declared(
    grouping: Grouping, active: Sequence[Op], declared: Sequence[float_island]
) -> Iterable[Region]:
    members: dict[str, list[Op]] = {}
    unused = list(declared)
    for op in active:
        for island in declared:
            if (module := island.module(op.path)) is not None:
                members.setdefault(module, []).append(op)
                unused = [other for other in unused if other is not island]
                break
    if unused:
        raise ValueError(
            f"int8: {unused[0]!r} matches no module that computes with the input"
            f"{_near(unused[0].pattern, active)}"
        )
    for module, ops in members.items():
        for component in _components(ops):
            _check_closed(grouping, module, component)
            yield Region(f"{module}:island", component, declared=True)


def _components(ops: Sequence[Op]) -> list[tuple[Op, ...]]:
    """The operations, parted where no number passes between them (a module that is used twice)."""
    parts: list[list[Op]] = []
    for op in ops:
        read = set(op.inputs)
        joined = [p for p in parts if any(read.intersection(own.outputs) for own in p)]
        parts = [part for part in parts if part not in joined]
        parts.append([*(own for part in joined for own in part), op])
    order = {op.outputs: position for position, op in enumerate(ops)}
    return [tuple(sorted(part, key=lambda op: order[op.outputs])) for part in parts]


def _check_closed(grouping: Grouping, module: str, ops: Sequence[Op]) -> None:
    left = seen_outside(grouping, ops)
    if len(left) != 1:
        raise ValueError(
            f"int8: float_island: the module {module} leaves {len(left)} arrays, and an island leaves "
            "one: declare the module around it, or those inside it"
        )
    after = dependents(grouping.program.ops, left) - {v for op in ops for v in op.outputs}
    if after.intersection(read_by(grouping, ops)[0]):
        raise ValueError(
            f"int8: float_island: numbers leave the module {module} and come back: declare the module "
            "around it"
        )


def _near(pattern: str, active: Sequence[Op]) -> str:
    known = dict.fromkeys(module for op in active for module in modules(op.path) if module)
    short = dict.fromkeys(module.partition("/")[2] or module for module in known)
    near = difflib.get_close_matches(pattern, [*known, *short], 3, 0.5)
    return f"; near it: {', '.join(near)}" if near else f"; there are: {', '.join(known)}"


# -- normalisations


def _normalizations(grouping: Grouping, active: Sequence[Op]) -> Iterable[Region]:
    for op in active:
        if op.name in ("rsqrt", "sqrt"):
            ops = _normalization(grouping, op)
            if ops is not None:
                yield Region(f"{op.path}:norm", ops, declared=False, root=op)


def _normalization(grouping: Grouping, root: Op) -> tuple[Op, ...] | None:
    """The normalisation that a root of a variance belongs to, its factors and biases with it.

    It starts at the one value that the variance and the numbers it scales are both computed from.
    """
    value = root.outputs[0]
    while (op := grouping.only_consumer(value)) is not None and _activations(grouping, op) == {
        value
    }:
        value = op.outputs[0]
    if op is None or op.name not in ("mul", "div"):
        return None
    source = _common_source(grouping, op)
    last = _scaled_and_shifted(grouping, op.outputs[0])
    after = dependents(grouping.program.ops, [source]) - {source}
    ops = tuple(
        op
        for op in needed(grouping.program.ops, [last])
        if op.outputs[0] in after and grouping.is_activation(op.outputs[0])
    )
    names = {op.name for op in ops}
    closed = seen_outside(grouping, ops) == (last,)
    return ops if closed and "reduce_sum" in names and names <= NORMALIZES else None


def _activations(grouping: Grouping, op: Op) -> set[int]:
    return {value for value in op.inputs if grouping.is_activation(value)}


def _common_source(grouping: Grouping, op: Op) -> int:
    """The nearest value that all activations an operation reads are computed from."""
    producers = {value: op for op in grouping.program.ops for value in op.outputs}
    frontier = _activations(grouping, op)
    while len(frontier) > 1:
        latest = max(frontier)  # values are numbered in the order they are computed
        frontier.remove(latest)
        frontier |= _activations(grouping, producers[latest])
    return frontier.pop()


def _scaled_and_shifted(grouping: Grouping, value: int) -> int:
    """The value after the per-channel steps, and a rectifier, that follow a normalisation."""
    channels = grouping.program.shape(value)[-1:]
    while (op := grouping.only_consumer(value)) is not None:
        if rectified(op, None) is not None:
            return op.outputs[0]
        if grouping.affine(op, value, channels) is None:
            break
        value = op.outputs[0]
    return value
