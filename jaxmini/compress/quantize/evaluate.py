"""Evaluate: runs a plan in floating point; what kernels, constants and roundings are is left to hooks.

One evaluator serves observation, training, inference and export. A mode is an object with the methods of
``Hooks``; ``Float`` is the mode without rounding, and others derive from it.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.fold import fold
from jaxmini.compress.quantize.lookup import Lookup
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import (
    INPUT,
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
from jaxmini.compress.quantize.program import Value, read, run
from jaxmini.compress.quantize.subgraph import FloatRun, Subgraph
from jaxmini.model import Variables
from jaxmini.state import Array

LEAST = np.finfo(np.float32).min


class Hooks(Protocol):
    """What a mode decides. Called in the order of the plan's groups.

    Attributes:
        clips: whether numbers are held to what their readers hold them to before they are rounded.
    """

    clips: bool

    def activation(self, site: str, values: Array) -> Array:
        """The values as they leave a group that computes, and the model's input, put on ``site``.

        Groups that only move numbers, and average pools, do not come here; nor what lies on no grid. Tied
        groups pass one site.
        """

    def weight(self, group: Weighted) -> tuple[Array, Array]:
        """The kernel [..., O] and bias [O] of a group, with its chain folded in."""

    def constant(self, group: Group, position: int) -> Array:
        """The operand at ``position`` of ``group.inputs``, which does not depend on the input."""

    def table(self, group: Lookup) -> Array:
        """The table of a lookup, put on ``group.site``."""

    def held(self, group: Subgraph) -> list[Array]:
        """What a subgraph reads of the variables, in the order of ``group.held``."""

    def subgraph(self, group: Subgraph, operands: Sequence[Array]) -> Array:
        """What a subgraph computes, before it is put on ``group.site``."""

    def moved(self, group: Move, results: list[Array]) -> list[Array]:
        """What was moved, which stays on the grid of ``group.site``."""

    def mask(self, group: Mask, values: Array, kept: Array) -> Array:
        """The values with those not ``kept`` below all others, on the grid of ``group.site``."""

    def average(self, group: AveragePool, values: Array) -> Array:
        """The averages as they leave a pool: they stay on the grid of ``group.site``."""


class Float:
    """No rounding: the model itself, with every affine chain folded."""

    clips = True

    def __init__(self, plan: Plan, variables: Variables) -> None:
        self.plan = plan
        self.values = plan.program.bind_variables(variables)
        run(plan.weight_ops, self.values)

    def activation(self, site: str, values: Array) -> Array:
        return values

    def weight(self, group: Weighted) -> tuple[Array, Array]:
        return fold(group.kernel_array(self.values), group.chain, group.channels, self.values)

    def constant(self, group: Group, position: int) -> Array:
        return jnp.asarray(read(self.values, group.inputs[position]))

    def table(self, group: Lookup) -> Array:
        return self.activation(group.site, jnp.asarray(read(self.values, group.inputs[0])))

    def held(self, group: Subgraph) -> list[Array]:
        return [jnp.asarray(read(self.values, value)) for value in group.held]

    def subgraph(self, group: Subgraph, operands: Sequence[Array]) -> Array:
        return group(operands, self.held(group))

    def moved(self, group: Move, results: list[Array]) -> list[Array]:
        return results

    def mask(self, group: Mask, values: Array, kept: Array) -> Array:
        return group.hidden(self.activation(group.site, group.lowered(values, kept)), kept, LEAST)

    def average(self, group: AveragePool, values: Array) -> Array:
        return values


def evaluate(plan: Plan, hooks: Hooks, inputs: Array) -> Array:
    """The plan's output for ``inputs``, of the shape and dtype the plan was made for; float32."""
    return evaluate_all(plan, hooks, inputs)[plan.output]


def evaluate_all(plan: Plan, hooks: Hooks, inputs: Array) -> dict[Value, Array]:
    """Every value between the plan's groups, its input and its output too."""
    first = hooks.activation(INPUT, inputs) if INPUT in plan.sites else inputs
    values = {plan.program.input: first}
    for group in plan.groups:
        values.update(zip(group.outputs, evaluate_group(plan, group, hooks, values), strict=True))
    return values


def evaluate_group(
    plan: Plan, group: Group, hooks: Hooks, values: Mapping[Value, Array]
) -> list[Array]:
    """What one group leaves, one array an output; ``values`` are its operands that are not constants."""
    operands = [
        _constant(hooks, group, position) if plan.is_constant(value) else values[value]
        for position, value in enumerate(group.inputs)
    ]
    if isinstance(group, FloatRun):
        return group.results(operands, hooks.held(group))
    return _results(plan, group, operands, hooks)


def _constant(hooks: Hooks, group: Group, position: int) -> Array:
    return hooks.table(group) if isinstance(group, Lookup) else hooks.constant(group, position)


def _results(plan: Plan, group: Group, operands: list[Array], hooks: Hooks) -> list[Array]:
    match group:
        case Move():
            moved = group.move(*operands)
            return hooks.moved(group, moved) if group.site in plan.sites else moved
        case AveragePool():
            values = group.window_sum(*operands) / jnp.float32(group.count)
            return [hooks.average(group, _held(group, values, hooks))]
        case Rectifier():
            (values,) = operands
        case Weighted():
            kernel, bias = hooks.weight(group)
            values = group.biased(group.product(*operands, kernel), bias)
        case Mean():
            values = jnp.mean(*operands, axis=group.axes).reshape(group.shape)
        case Elementwise():
            (values,) = group.op.bind(*operands)
        case Product():
            values = group.product(*operands)
        case Subgraph():
            values = hooks.subgraph(group, operands)
        case Mask():
            values, *asked = operands
            return [hooks.mask(group, values, *(asked or [group.kept]))]
    values = _held(group, values, hooks)
    return [hooks.activation(group.site, values) if group.site in plan.sites else values]


def _held(group: Group, values: Array, hooks: Hooks) -> Array:
    """The values after a group's rectifier, and within what its readers hold them to."""
    for end in (
        getattr(group, "clamp", None),
        getattr(group, "clip", None) if hooks.clips else None,
    ):
        values = values if end is None else end(values)
    return values
