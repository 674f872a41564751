"""Fake quantization: the float model with every rounding of the integer one, and gradients through them."""

from collections.abc import Mapping
from types import MappingProxyType

import jax.numpy as jnp

from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.extremes import Range, begun, extremes, union
from jaxmini.compress.quantize.grid import (
    Grid,
    fake_quant,
    fake_quant_average,
    fake_quant_steps,
    least,
    symmetric,
)
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import AveragePool, Group, Move, Plan, Weighted
from jaxmini.compress.quantize.ranges import Ranges, is_seen
from jaxmini.compress.quantize.stored import KernelState
from jaxmini.model import Variables
from jaxmini.state import Array


class FakeQuant(Float):
    """The mode of inference: rounds onto the grids it is given."""

    def __init__(
        self,
        plan: Plan,
        variables: Variables,
        grids: Mapping[str, Grid],
        kernels: Mapping[str, KernelState] = MappingProxyType({}),
    ) -> None:
        super().__init__(plan, variables)
        self.grids, self.kernels = dict(grids), kernels

    def activation(self, site: str, values: Array) -> Array:
        return fake_quant(values, self.grids[site])

    def weight(self, group: Weighted) -> tuple[Array, Array]:
        (kernel, bias), rounding = super().weight(group), self.plan.kernel(group)
        input_scale = self.plan.input_scale(group, self.grids)
        kernel, scale = self.prepared(group, kernel, bias, input_scale)
        if input_scale is not None:
            bias = fake_quant_steps(bias, input_scale * scale)
        return rounding.fake_quant(kernel, scale), bias

    def prepared(
        self, group: Weighted, kernel: Array, bias: Array, input_scale: Array | None
    ) -> tuple[Array, Array]:
        """A group's kernel [..., O] as it is to be rounded, and the scale [O] it is rounded with."""
        state = self.kernels.get(group.name, KernelState())
        return state.prepare(self.plan.kernel(group), kernel, bias, input_scale)

    def constant(self, group: Group, position: int) -> Array:
        values = super().constant(group, position)
        # What is concatenated lies on the grid of the whole; any other constant has its own.
        return fake_quant(
            values,
            self.grids[group.site]
            if isinstance(group, Move)
            else symmetric(values, self.plan.constant_bits),
        )

    def mask(self, group: Mask, values: Array, kept: Array) -> Array:
        rounded = self.activation(group.site, group.lowered(values, kept))
        return group.hidden(rounded, kept, least(self.grids[group.site]))

    def average(self, group: AveragePool, values: Array) -> Array:
        return fake_quant_average(values, self.grids[group.site])


class Train(FakeQuant):
    """The mode of training: rounds onto the grids of the stored ranges, and notes the batch's in ``seen``.

    A site that has seen no data before rounds with the range of the batch at hand.
    """

    def __init__(self, plan: Plan, variables: Variables, ranges: Ranges) -> None:
        super().__init__(plan, variables, plan.fixed)
        self.ranges = ranges
        self.seen: Ranges = {}

    def activation(self, site: str, values: Array) -> Array:
        if site not in self.plan.fixed:
            self.grids[site] = self.plan.activation(site).grid(self.range_of(site, values), {})
        return super().activation(site, values)

    def range_of(self, site: str, values: Array) -> Range:
        """The range to round with; notes that of the values."""
        seen, known = extremes(values), self.ranges[site]
        seen = union(self.seen[site], seen) if site in self.seen else seen
        self.seen[site] = seen
        return begun(
            {end: jnp.where(is_seen(known), known[end], seen[end]) for end in ("low", "high")}
        )
