"""Layerwise: the float network and the frozen one side by side on the same pictures, layer after layer.

What is changed in a layer is what the layers after it see.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmini.compress.quantize.evaluate import Float, Hooks, evaluate_group
from jaxmini.compress.quantize.frozen import Dequantized, Frozen, FrozenKernel, freeze
from jaxmini.compress.quantize.plan import INPUT, Plan, Weighted
from jaxmini.compress.quantize.stored import floats_of
from jaxmini.compress.quantize.transform import make_plan
from jaxmini.model import Model, Variables
from jaxmini.state import Array


class Layer(NamedTuple):
    """A layer with what it is fed in both networks.

    Attributes:
        group: of the plan.
        kernel, bias: of the float network, with the chain folded in; [..., O] and [O].
        frozen: its integers, each to the nearest.
        inputs: of the float network, one a batch, [B, ..., I].
        rounded: the same in the frozen network as it is by now.
    """

    group: Weighted
    kernel: Array
    bias: Array
    frozen: FrozenKernel
    inputs: list[Array]
    rounded: list[Array]


class Layerwise:
    """Both networks of a quantized model; iterate over it, and ``settle`` the layer at hand.

    It holds of every picture all that is still to be read, in both networks.

    Attributes:
        plan: for the first batch.
        frozen: the network as ``freeze`` gives it.
        values: of the float program, that depend on the variables alone.
    """

    def __init__(self, model: Model, variables: Variables, batches: Sequence[Array]) -> None:
        plans = [make_plan(model, variables, batch) for batch in batches]
        self.plan = plans[0]
        self.frozen: Frozen = freeze(self.plan, variables)
        self._settled: dict[str, tuple[Array, Array]] = {}
        floats = floats_of(variables)
        real = {id(plan): Float(plan, floats) for plan in plans}
        self.values = real[id(self.plan)].values
        self._real = [_Run(p, real[id(p)], x) for p, x in zip(plans, batches, strict=True)]
        self._rounded = [
            _Run(p, _Settled(p, self.frozen, self._settled), x)
            for p, x in zip(plans, batches, strict=True)
        ]

    def __iter__(self) -> Iterator[Layer]:
        hooks = self._real[0].hooks
        for index, group in enumerate(self.plan.groups):
            if isinstance(group, Weighted):
                fed = [[run.operand(index) for run in runs] for runs in (self._real, self._rounded)]
                frozen = self.frozen.kernels[group.name]
                yield Layer(group, *hooks.weight(group), frozen, *fed)
            for runs in (self._real, self._rounded):
                compiled = {}  # batches of one shape have one plan
                for run in runs:
                    step = compiled.setdefault(id(run.plan), run.compiled(index))
                    run.advance(index, step)

    def settle(self, layer: Layer, kernel: Array, bias: Array) -> None:
        """Give the layer at hand another kernel and bias in the frozen network, as numbers."""
        self._settled[layer.group.name] = jnp.asarray(kernel), jnp.asarray(bias)


class _Settled(Dequantized):
    """The frozen network with some layers changed."""

    def __init__(self, plan: Plan, frozen: Frozen, settled: dict[str, tuple[Array, Array]]) -> None:
        super().__init__(plan, frozen)
        self.settled = settled

    def weight(self, group: Weighted) -> tuple[Array, Array]:
        return self.settled[group.name] if group.name in self.settled else super().weight(group)


class _Run:
    """One plan on one batch, a group at a time; a value is dropped after its last reader."""

    def __init__(self, plan: Plan, hooks: Hooks, inputs: Array) -> None:
        self.plan, self.hooks = plan, hooks
        inputs = jnp.asarray(inputs)
        first = hooks.activation(INPUT, inputs) if INPUT in plan.sites else inputs
        self.values = {plan.program.input: first}
        self.last = {
            v: i for i, g in enumerate(plan.groups) for v in g.inputs if isinstance(v, int)
        }

    def operand(self, index: int) -> jax.Array:
        return self.values[self.plan.groups[index].inputs[0]]

    def compiled(self, index: int) -> Callable[[dict[int, Array]], list[Array]]:
        """What a group computes of its operands; one program, where each operation would be one."""
        group = self.plan.groups[index]
        return jax.jit(functools.partial(evaluate_group, self.plan, group, self.hooks))

    def advance(self, index: int, step: Callable[[dict[int, Array]], list[Array]]) -> None:
        group = self.plan.groups[index]
        operands = {v: self.values[v] for v in group.inputs if not self.plan.is_constant(v)}
        self.values.update(zip(group.outputs, step(operands), strict=True))
        for value in [v for v in self.values if self.last.get(v, index) <= index]:
            del self.values[value]


def outputs_of(group: Weighted, inputs: Array, kernel: Array, bias: Array) -> jax.Array:
    """What a layer computes before its rectifier, [B, ..., *channels]."""
    values = group.product(inputs, kernel)
    return values + bias.reshape((1,) * (values.ndim - len(group.channels)) + group.channels)
