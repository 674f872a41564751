"""Simulation: the frozen network in integers, with the roundings of XNNPACK's kernels, bit for bit.

XNNPACK is what LiteRT runs on CPUs. Values are carried as ``q - zero_point`` in float32, which holds such
integers exactly; sums that may pass 2**24 are made in parts and added as int32.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize import simulation_int16
from jaxmini.compress.quantize.fixed_point import multiplied
from jaxmini.compress.quantize.frozen import Frozen, FrozenConstant, operand_name
from jaxmini.compress.quantize.functions import Apply
from jaxmini.compress.quantize.grid import WIDE, Grid, quantized
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.parts import exact_parts
from jaxmini.compress.quantize.plan import (
    INPUT,
    AveragePool,
    Clamp,
    Elementwise,
    Group,
    Mean,
    Move,
    Plan,
    Rectifier,
    Weighted,
)
from jaxmini.compress.quantize.products import Product
from jaxmini.compress.quantize.program import Value
from jaxmini.state import Array

ADD_BITS = 20  # the larger multiplier of XNNPACK's addition is in [2**20, 2**21)


def simulate(plan: Plan, frozen: Frozen, inputs: Array) -> Array:
    """What the integer file computes, int8 (or int16) of the shape of the plan's output.

    The plan and the frozen tree are constants of the computation; for many batches of one shape take
    ``simulator(plan, frozen)`` once.

    Args:
        inputs: of the shape the plan was made for: integers on the input's grid, float32, or int32 tokens.

    Raises:
        TypeError: a network of int16 activations is simulated in NumPy, and JAX traces it.
        ValueError: activations stay float, so that there are no integers; or the inputs are not of the shape
            that the plan was made for.
    """
    if plan.rounds_kernels_alone:
        raise ValueError(
            "simulate: with weights_only activations stay float: there is no network of integers; run the "
            "model itself, or quantize with int8()"
        )
    _check_shape(plan, inputs)
    if plan.is_wide:
        _check_traced(inputs)
        return simulation_int16.simulate(plan, frozen, np.asarray(inputs))
    values = {plan.program.input: _input(plan, frozen, inputs)}
    for group in plan.groups:
        results = simulate_group(plan, frozen, group, values)
        values.update(zip(group.outputs, results, strict=True))
    return uncentred(values[plan.output], frozen.grids[plan.output_site])


def simulator(plan: Plan, frozen: Frozen) -> Callable[[Array], Array]:
    """``simulate`` of one network for many batches; compiled, but for int16 activations."""
    run = functools.partial(simulate, plan, frozen)
    return run if plan.is_wide else jax.jit(run)


def simulate_group(
    plan: Plan, frozen: Frozen, group: Group, values: Mapping[Value, Array]
) -> list[Array]:
    """What one group computes, one array an output.

    Args:
        values: its operands that are not constants, as ``centred`` gives them; so are the results.
    """
    if plan.is_wide:
        return simulation_int16.simulate_group(plan, frozen, group, values)
    kernels = _Integers(plan, frozen, group)
    operands = [kernels.operand(values, position) for position in range(len(group.inputs))]
    return kernels(*operands)


def _input(plan: Plan, frozen: Frozen, inputs: Array) -> Array:
    if plan.reads_tokens:
        return inputs
    grid = frozen.grids[INPUT]
    return centred(inputs if inputs.dtype == jnp.int8 else quantized(inputs, grid), grid)


def centred(integers: Array, grid: Grid) -> Array:
    """Integers of a grid as ``q - zero_point``, float32; those of 16 bits as NumPy's int64."""
    if grid.bits == WIDE:
        return np.asarray(integers).astype(np.int64)
    return jnp.float32(integers) - jnp.float32(grid.zero_point)


def uncentred(values: Array, grid: Grid) -> Array:
    """The integers of a grid, int8 or int16, that ``centred`` made of them."""
    if grid.bits == WIDE:
        return values.astype(np.int16)
    return (values + jnp.float32(grid.zero_point)).astype(jnp.int8)


def _check_shape(plan: Plan, inputs: Array) -> None:
    made_for = plan.program.shape(plan.program.input)
    if inputs.shape != made_for:
        raise ValueError(
            f"simulate: the inputs are {list(inputs.shape)}, the plan was made for {list(made_for)}: make "
            f"one for that shape, or give {made_for[0]} examples at a time"
        )


def _check_traced(inputs: Array) -> None:
    if isinstance(inputs, jax.core.Tracer):
        raise TypeError(
            "simulate: int16 activations are simulated in NumPy: call it with arrays, not under jit, or "
            "take simulator(plan, frozen)"
        )


class _Integers:
    """One group in integers."""

    def __init__(self, plan: Plan, frozen: Frozen, group: Group) -> None:
        self.plan, self.frozen, self.group = plan, frozen, group
        self.grid = frozen.grids.get(group.site)  # questions are on none

    def operand(self, values: Mapping[Value, Array], position: int) -> Array:
        value = self.group.inputs[position]
        if not self.plan.is_constant(value):
            return values[value]
        constant = self.constant(position)
        shape = self.plan.program.shape(value)
        return jnp.broadcast_to(centred(constant.values, constant.grid), shape)

    def constant(self, position: int) -> FrozenConstant:
        return self.frozen.constants[operand_name(self.group, position)]

    def source(self, position: int = 0) -> Grid:
        """The grid of an operand."""
        value = self.group.inputs[position]
        if self.plan.is_constant(value):
            return self.constant(position).grid
        return self.frozen.grids[self.plan.site_of[value]]

    def scale(self, position: int) -> np.float32:
        return np.float32(self.source(position).scale)

    def __call__(self, *operands: Array) -> list[Array]:
        group = self.group
        match group:
            case Move():
                return group.move(*operands)
            case AveragePool():
                average = self.average(group.window_sum(*operands))
                return [_clamped(average, group.clamp, self.grid)]
        values = self.computed(*operands)
        return [_clamped(values, getattr(group, "clamp", None), self.grid)]

    def computed(self, *operands: Array) -> Array:
        """What a group that computes leaves, before its rectifier."""
        group = self.group
        match group:
            case Rectifier():
                (values,) = operands
            case Weighted():
                values = self.weighted(*operands)
            case Mean():
                values = self.mean(*operands)
            case Elementwise():
                values = self.product(*operands) if group.op.name == "mul" else self.sum(*operands)
            case Product():
                values = self.matrices(*operands)
            case Apply():
                values = group.kind.integers(*operands, self.source(), self.grid)
            case Mask():
                values = self.mask(*operands)
            case Island():
                values = self.island(*operands)
        return values

    def rounded(self, values: Array) -> Array:
        """Nearest integers, ties to even, held to the grid."""
        zero_point = jnp.float32(self.grid.zero_point)
        return jnp.clip(jnp.round(values), self.grid.low - zero_point, self.grid.high - zero_point)

    def weighted(self, inputs: Array) -> Array:
        frozen = self.frozen.kernels[self.group.name]
        channels = self.group.channels
        total = jnp.int32(0)
        for part in exact_parts(frozen.kernel):
            product = self.group.product(inputs, jnp.asarray(part), exactly=True)
            total = total + product.astype(jnp.int32)
        row = (1,) * (total.ndim - len(channels)) + channels
        total = total + frozen.bias.reshape(row)
        multiplier = frozen.input_scale * frozen.scale / self.grid.scale
        return self.rounded(total.astype(jnp.float32) * multiplier.reshape(row))

    def mean(self, inputs: Array) -> Array:
        """Both zero points in one addend of float32, which decides how ties fall."""
        count, zero_point = np.float32(self.group.count), np.float32(self.source().zero_point)
        total = jnp.sum(inputs.astype(jnp.int32), axis=self.group.axes).reshape(self.group.shape)
        total = total + jnp.int32(self.source().zero_point * self.group.count)
        multiplier = self.scale(0) / np.float32(self.grid.scale) * (np.float32(1) / count)
        addend = np.float32(self.grid.zero_point) - zero_point * count * multiplier
        # The maximum changes nothing: without it XLA makes one rounding of the product and the sum.
        product = jnp.maximum(total.astype(jnp.float32) * multiplier, np.finfo(np.float32).min)
        return self.rounded(jnp.round(product + addend) - jnp.float32(self.grid.zero_point))

    def average(self, total: Array) -> Array:
        """Integer division with ties away from zero, of sums of q itself."""
        count = self.group.count
        total = total.astype(jnp.int32) + jnp.int32(self.grid.zero_point * count)
        half = jnp.where(total > 0, jnp.int32(count // 2), jnp.int32(-(count // 2)))
        return self.rounded(
            (lax.div(total + half, jnp.int32(count)) - self.grid.zero_point).astype(jnp.float32)
        )

    def product(self, first: Array, second: Array) -> Array:
        multiplier = self.scale(0) * self.scale(1) / self.grid.scale
        return self.rounded(_apply(self.group, first, second) * multiplier)

    def sum(self, first: Array, second: Array) -> Array:
        add = functools.partial(_apply, self.group)
        return self.fixed_point_sum((first, second), (self.scale(0), self.scale(1)), add)

    def mask(self, inputs: Array, *asked: Array) -> Array:
        added = self.constant(1)
        steps = jnp.float32(added.values)
        for kept in asked:
            steps = steps[kept.astype(jnp.int32)]
        terms = inputs, steps
        return self.fixed_point_sum(terms, (self.scale(0), np.float32(added.grid.scale)), jnp.add)

    def fixed_point_sum(
        self,
        operands: tuple[Array, Array],
        scales: tuple[np.float32, np.float32],
        add: Callable[[Array, Array], Array],
    ) -> Array:
        """XNNPACK's fixed-point addition: 21-bit multipliers, one shift, ties up."""
        ratios = [scale / self.grid.scale for scale in scales]
        shift = ADD_BITS - int(np.floor(np.log2(max(ratios))))
        multipliers = [int(np.rint(np.ldexp(np.float64(ratio), shift))) for ratio in ratios]
        terms = (v.astype(jnp.int32) * m for v, m in zip(operands, multipliers, strict=True))
        total = add(*terms) + (1 << (shift - 1))
        return self.rounded(lax.shift_right_arithmetic(total, jnp.int32(shift)).astype(jnp.float32))

    def matrices(self, first: Array, second: Array) -> Array:
        """Sums in int32, rounded as XNNPACK rounds where it has a kernel, else as TensorFlow Lite does."""
        total = self.group.product(first.astype(jnp.int32), second.astype(jnp.int32), np.int32)
        if self.source(self.group.as_kernel).zero_point == 0:
            multiplier = self.scale(0) * self.scale(1) / self.grid.scale
            return self.rounded(total.astype(jnp.float32) * multiplier)
        factor = float(self.scale(0) * self.scale(1)) / float(self.grid.scale)
        return self.rounded(multiplied(total, factor).astype(jnp.float32))

    def island(self, *operands: Array) -> Array:
        floats = [v * self.scale(position) for position, v in enumerate(operands)]
        held = [jnp.asarray(values) for values in self.frozen.held(self.group)]
        return self.rounded(self.group(floats, held) * (1 / np.float32(self.grid.scale)))


def _apply(group: Group, *operands: Array) -> Array:
    return group.op.bind(*operands)[0]


def _clamped(values: Array, clamp: Clamp | None, grid: Grid) -> Array:
    if clamp is None:
        return values
    values = jnp.maximum(values, 0.0)
    return (
        values if np.isinf(clamp.high) else jnp.minimum(values, np.round(clamp.high / grid.scale))
    )
