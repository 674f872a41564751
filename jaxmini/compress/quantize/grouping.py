"""Grouping: the state of gathering a program's operations into groups, and the grids these land on.

The rules that use it, one a primitive, are in ``rules.py``.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from jaxmini.compress.quantize.fold import Affine
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.merging import Sameness
from jaxmini.compress.quantize.patterns import affine, bound, rectified
from jaxmini.compress.quantize.plan import INPUT, Clamp, Clip, Group, Plan
from jaxmini.compress.quantize.program import Op, Program, Value, dependents, extended, needed

# Moves that a rectifier may pass: relu(max_pool(x)) = max_pool(relu(x)), and a rounding is saved.
PASSES_RECTIFIER = frozenset(
    {
        "broadcast_in_dim",
        "copy",
        "dynamic_slice",
        "reduce_max",
        "reduce_window_max",
        "reshape",
        "rev",
        "slice",
        "squeeze",
        "stop_gradient",
        "tile",
        "transpose",
    }
)
LABELS = {
    "concatenate": "concat",
    "conv_general_dilated": "conv",
    "dot_general": "dense",
    "gather": "take",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_sum": "mean",
    "reduce_window_max": "max_pool",
    "reduce_window_sum": "avg_pool",
}


class Grouping:
    """Groups gathered so far in one walk over a program.

    Attributes:
        activations: the values that depend on the input.
        consumers: the operations that read a value.
        taken: outputs of operations that belong to a group already.
        replaced: values that a rectifier left by moving up, or that were computed before, and what now holds
            their numbers.
        site_of: the site of each value between groups, before ties.
        tied: a site's older partner.
        fixed: the sites whose kernel knows one grid only.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.output = program.output
        self.activations = dependents(program.ops, [program.input])
        self.consumers: dict[int, list[Op]] = {}
        self.read(program.ops)
        self.producers = {value: op for op in program.ops for value in op.outputs}
        self.sameness = Sameness(self.producers, self.activations)
        self.taken: set[int] = set()
        self.replaced: dict[int, int] = {}
        self.groups: list[Group] = []
        self.names: dict[str, int] = {}
        self.site_of: dict[int, str] = {program.input: INPUT}
        self.tied: dict[str, str] = {}
        self.fixed: dict[str, Grid] = {}

    def finish(self, fixed: dict[str, Grid]) -> Plan:
        """The plan of what has been gathered; ``fixed`` are further grids that are given."""
        fixed = fixed | self.fixed
        groups = tuple(dataclasses.replace(g, site=self.root(g.site)) for g in self.groups)
        site_of = {value: self.root(site) for value, site in self.site_of.items()}
        has_grid = self.program.types[self.program.input].dtype == np.float32
        held = [INPUT] * has_grid + [g.site for g in groups if g.site != INPUT]
        sites = tuple(dict.fromkeys(held))
        ties = {root: self.partners(root) for root in sites if root in self.tied.values()}
        for root, others in ties.items():
            _check_shared(root, others, fixed)
        constants = {v for g in groups for v in (*g.inputs, *g.held) if v not in site_of}
        weights = (op for op in self.program.ops if not self.is_activation(op.outputs[0]))
        weight_ops = needed(weights, constants)
        return Plan(self.program, self.output, groups, sites, site_of, fixed, ties, weight_ops)

    # -- what the program says of a value

    def is_activation(self, value: Value) -> bool:
        return isinstance(value, int) and value in self.activations

    def resolved(self, value: Value) -> Value:
        """What now holds the numbers of a value."""
        while isinstance(value, int) and value in self.replaced:
            value = self.replaced[value]
        return value

    def inputs(self, op: Op) -> tuple[Value, ...]:
        return tuple(map(self.resolved, op.inputs))

    def only_consumer(self, value: int) -> Op | None:
        """The one operation that reads a value; None if others see it too, or another group has it."""
        consumers = self.consumers.get(value, [])
        alone = len(consumers) == 1 and value != self.output
        return consumers[0] if alone and consumers[0].outputs[0] not in self.taken else None

    def read(self, ops: Iterable[Op]) -> None:
        """Note what operations read."""
        for op in ops:
            for value in {value for value in op.inputs if isinstance(value, int)}:
                self.consumers.setdefault(value, []).append(op)

    # -- absorbing operations into a group

    def take(self, op: Op) -> int:
        self.taken.update(op.outputs)
        return op.outputs[0]

    def affine(self, op: Op, source: int, channels: tuple[int, ...]) -> Affine | None:
        inputs = self.inputs(op)
        others = [value for value in inputs if value != source]
        if any(map(self.is_activation, others)):
            return None
        return affine(op, source, inputs, channels, self.program)

    def absorb_chain(self, value: int, channels: tuple[int, ...]) -> tuple[tuple[Affine, ...], int]:
        """The affine steps that follow ``value``, and the value after them."""
        chain = []
        while (op := self.only_consumer(value)) is not None:
            step = self.affine(op, value, channels)
            if step is None:
                break
            chain.append(step)
            value = self.take(op)
        return tuple(chain), value

    def absorb_clamp(self, value: int, clamp: Clamp | None = None) -> tuple[Clamp | None, int]:
        """``clamp`` joined with the rectifiers that follow ``value``, past moves too; the value after."""
        last = value
        while (op := self.only_consumer(last)) is not None:
            if (joined := rectified(op, clamp)) is not None:
                clamp, result = joined, self.take(op)
                if last == value:
                    value = last = result
                else:
                    self.replace(result, last)
            elif op.name in PASSES_RECTIFIER:
                last = op.outputs[0]
            else:
                break
        return clamp, value

    def clip_after(self, value: int) -> Clip | None:
        """What the maxima and minima that follow ``value``, groups of their own, hold it to."""
        clip = Clip()
        while (op := self.only_consumer(value)) is not None and (end := bound(op)) is not None:
            clip, value = clip.after(op.name, end), op.outputs[0]
        return None if clip == Clip() else clip

    def emit(
        self, function: Callable, arguments: list[Value], path: str
    ) -> tuple[list[Value], list[Op]]:
        """Add what ``function`` does of some values to the program; its results and its operations."""
        before = len(self.program.ops)
        self.program, results = extended(self.program, function, arguments, path)
        new = list(self.program.ops[before:])
        self.activations |= dependents(new, self.activations)
        self.producers |= {value: op for op in new for value in op.outputs}
        return results, new

    def replace(self, value: int, by: int) -> None:
        """Let every reader of ``value`` read ``by``."""
        self.replaced[value] = by
        self.consumers[by] = self.consumers.get(value, [])
        if self.output == value:
            self.output = by

    def merge(self, op: Op, source: int) -> None:
        """Let ``op`` be the identity: its readers read ``source``."""
        self.consumers[source] = [r for r in self.consumers.get(source, []) if r is not op]
        self.unite(op.outputs[0], source)

    def unite(self, value: int, by: int) -> None:
        """Let every reader of ``value`` read ``by``, beside those of ``by`` itself."""
        others = self.consumers.get(by, [])
        self.replace(value, by)
        self.consumers[by] = others + self.consumers[by]

    # -- sites

    def name(self, op: Op, label: str | None = None) -> str:
        return self.unique(f"{op.path}:{label or LABELS.get(op.name, op.name)}")

    def unique(self, name: str) -> str:
        """The name, numbered if groups have it already."""
        count = self.names[name] = self.names.get(name, -1) + 1
        return f"{name}_{count}" if count else name

    def root(self, site: str) -> str:
        while site in self.tied:
            site = self.tied[site]
        return site

    def tie(self, first: str, second: str) -> None:
        first, second = self.root(first), self.root(second)
        if first != second:
            order = list(dict.fromkeys(self.site_of.values()))
            older, younger = sorted((first, second), key=order.index)
            self.tied[younger] = older

    def partners(self, root: str) -> tuple[str, ...]:
        """The sites that were tied to ``root``."""
        return tuple(site for site in self.tied if self.root(site) == root)

    def rename(self, old: str, new: str) -> None:
        """Give a group and its site another name."""

        def renamed(name: str) -> str:
            return new if name == old else name

        self.groups = [
            dataclasses.replace(group, name=renamed(group.name), site=renamed(group.site))
            for group in self.groups
        ]
        self.site_of = {value: renamed(site) for value, site in self.site_of.items()}
        self.fixed = {renamed(site): grid for site, grid in self.fixed.items()}

    def add(self, group: Group) -> Group:
        """Append a group, unless one computes the same already; its outputs lie on its site.

        Returns:
            The group that now computes it.
        """
        group = dataclasses.replace(group, inputs=tuple(map(self.resolved, group.inputs)))
        known = next((own for own in self.groups if self.sameness.groups(own, group)), None)
        if known is None:
            self.groups.append(group)
            known = group
        for value, by in zip(group.outputs, known.outputs, strict=True):
            self.site_of[value] = known.site
            if value != by:
                self.unite(value, by)
        return known


def _check_shared(root: str, others: tuple[str, ...], fixed: dict[str, Grid]) -> None:
    """Refuse a given grid that others must share."""
    given = next((site for site in (root, *others) if site in fixed), None)
    if given is not None and len({fixed.get(site) for site in (root, *others)}) > 1:
        name = "the input" if given == INPUT else given
        sharing = ", ".join(site for site in (root, *others) if site != given)
        raise ValueError(
            f"quantize: the grid of {name} is given, and {sharing} must share it: "
            f"put a convolution between {name} and the concatenation"
        )
