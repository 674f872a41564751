"""Grouping: the state of gathering a program's operations into groups, and the grids these land on.

The rules that use it, one a primitive, are in ``rules.py``.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxmini.compress.quantize.fold import Affine
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.patterns import affine, rectified
from jaxmini.compress.quantize.plan import INPUT, Clamp, Group, Plan, Weighted
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
        replaced: values that a rectifier left by moving up, and what now holds their numbers.
        site_of: the site of each value between groups, before ties.
        tied: a site's older partner.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.output = program.output
        self.activations = dependents(program.ops, [program.input])
        self.consumers: dict[int, list[Op]] = {}
        for op in program.ops:
            for value in {value for value in op.inputs if isinstance(value, int)}:
                self.consumers.setdefault(value, []).append(op)
        self.taken: set[int] = set()
        self.replaced: dict[int, int] = {}
        self.groups: list[Group] = []
        self.names: dict[str, int] = {}
        self.site_of: dict[int, str] = {program.input: INPUT}
        self.tied: dict[str, str] = {}

    def finish(self, fixed: dict[str, Grid]) -> Plan:
        """The plan of what has been gathered; ``fixed`` are the grids that are given."""
        groups = tuple(dataclasses.replace(g, site=self.root(g.site)) for g in self.groups)
        site_of = {value: self.root(site) for value, site in self.site_of.items()}
        has_grid = self.program.types[self.program.input].dtype == np.float32
        sites = tuple(dict.fromkeys([INPUT] * has_grid + [g.site for g in groups]))
        ties = {root: self.partners(root) for root in sites if root in self.tied.values()}
        if fixed.keys() & ties.keys():
            raise ValueError(
                f"quantize: the input's grid is given, and {', '.join(ties[INPUT])} must share it: "
                "put a convolution between the input and the concatenation"
            )
        constants = {v for g in groups for v in g.inputs if v not in site_of}
        for g in groups:
            if isinstance(g, Weighted):
                constants |= {g.kernel, *(step.operand for step in g.chain)}
        weights = (op for op in self.program.ops if not self.is_activation(op.outputs[0]))
        weight_ops = needed(weights, constants)
        return Plan(self.program, self.output, groups, sites, site_of, fixed, ties, weight_ops)

    # -- what the program says of a value

    def is_activation(self, value: Value) -> bool:
        return isinstance(value, int) and value in self.activations

    def inputs(self, op: Op) -> tuple[Value, ...]:
        return tuple(self.replaced.get(v, v) if isinstance(v, int) else v for v in op.inputs)

    def only_consumer(self, value: int) -> Op | None:
        """The one operation that reads a value, None if others see it too."""
        consumers = self.consumers.get(value, [])
        return consumers[0] if len(consumers) == 1 and value != self.output else None

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

    def emit(
        self, function: Callable, arguments: list[Value], path: str
    ) -> tuple[list[Value], list[Op]]:
        """Add what ``function`` does of some values to the program; its results and its operations."""
        before = len(self.program.ops)
        self.program, results = extended(self.program, function, arguments, path)
        new = list(self.program.ops[before:])
        self.activations |= dependents(new, self.activations)
        return results, new

    def replace(self, value: int, by: int) -> None:
        """Let every reader of ``value`` read ``by``."""
        self.replaced[value] = by
        self.consumers[by] = self.consumers.get(value, [])
        if self.output == value:
            self.output = by

    # -- sites

    def name(self, op: Op, label: str | None = None) -> str:
        name = f"{op.path}:{label or LABELS.get(op.name, op.name)}"
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

    def add(self, group: Group) -> None:
        """Append a group; its outputs lie on its site."""
        self.groups.append(group)
        self.site_of.update(dict.fromkeys(group.outputs, group.site))
