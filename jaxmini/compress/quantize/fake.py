"""Fake quantization: the float model with every rounding of the integer one, and gradients through them."""

from collections.abc import Mapping

import jax.numpy as jnp

from jaxmini.compress.quantize import grid as grids
from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.plan import AveragePool, Group, Move, Plan, Weighted
from jaxmini.compress.quantize.ranges import (
    Ranges,
    grids_of,
    is_seen,
    moving_average,
    observed,
    union,
)
from jaxmini.model import Variables
from jaxmini.state import Array


class FakeQuant(Float):
    """The mode of inference: grids are those of the stored ranges."""

    def __init__(self, plan: Plan, variables: Variables, grids: Mapping[str, Grid]) -> None:
        super().__init__(plan, variables)
        self.grids = dict(grids)

    def activation(self, site: str, values: Array) -> Array:
        return grids.fake_quant(values, self.grids[site])

    def weight(self, group: Weighted) -> tuple[Array, Array]:
        kernel, bias = super().weight(group)
        input_scale = self.grids[self.plan.input_site(group)].scale
        scale = grids.kernel_scale(kernel, bias, input_scale)
        bias_scale = input_scale * scale
        return (
            grids.straight_through(kernel, jnp.round(kernel / scale) * scale),
            grids.straight_through(bias, jnp.round(bias / bias_scale) * bias_scale),
        )

    def constant(self, group: Group, position: int) -> Array:
        values = super().constant(group, position)
        return grids.fake_quant(values, self.constant_grid(group, values))

    def constant_grid(self, group: Group, values: Array) -> Grid:
        return self.grids[group.site] if isinstance(group, Move) else grids.symmetric(values)

    def average(self, group: AveragePool, values: Array) -> Array:
        return grids.fake_quant_average(values, self.grids[group.site])


class Train(FakeQuant):
    """The mode of training: rounds with the stored ranges, and notes what this batch's are in ``seen``.

    A site that has seen nothing rounds with the range of the batch at hand.
    """

    def __init__(self, plan: Plan, variables: Variables, ranges: Ranges) -> None:
        super().__init__(plan, variables, plan.fixed)
        self.ranges, self.seen = ranges, {}

    def activation(self, site: str, values: Array) -> Array:
        if site not in self.plan.fixed:
            self.see(site, observed(values))
        return super().activation(site, values)
