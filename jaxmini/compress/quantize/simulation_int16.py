"""Simulation of int16 activations: TensorFlow Lite's own kernels in NumPy's int64, bit for bit.

XNNPACK has no kernels for them: the interpreter's run, and its reference and optimized ones agree. Zero
points are 0, so an integer is its number of steps.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.frozen import Frozen, FrozenConstant, operand_name
from jaxmini.compress.quantize.grid import Grid, ends, quantized
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.multipliers import (
    Multipliers,
    divided,
    multipliers,
    scaled,
    scaled_sum,
)
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
from jaxmini.compress.quantize.program import Value
from jaxmini.state import Array

ADD_SHIFT = 15  # fractional bits of the terms of a sum


def simulate(plan: Plan, frozen: Frozen, inputs: np.ndarray) -> np.ndarray:
    """What the file of int16 activations computes, int16 of the shape of the plan's output.

    Args:
        inputs: of the shape the plan was made for: int16 on the input's grid, or float32.
    """
    grid = frozen.grids[INPUT]
    integers = inputs if inputs.dtype == np.int16 else np.asarray(quantized(inputs, grid))
    values: dict[Value, np.ndarray] = {plan.program.input: np.asarray(integers, np.int64)}
    for group in plan.groups:
        results = simulate_group(plan, frozen, group, values)
        values.update(zip(group.outputs, results, strict=True))
    return values[plan.output].astype(np.int16)


def simulate_group(
    plan: Plan, frozen: Frozen, group: Group, values: Mapping[Value, np.ndarray]
) -> list[np.ndarray]:
    """What one group computes, int64, one array an output; ``values`` are its operands but constants."""
    kernels = _Int16(plan, frozen, group)
    return kernels(*(kernels.operand(values, position) for position in range(len(group.inputs))))


class _Int16:
    """One group in integers."""

    def __init__(self, plan: Plan, frozen: Frozen, group: Group) -> None:
        self.plan, self.frozen, self.group = plan, frozen, group
        self.grid = frozen.grids[group.site]

    def operand(self, values: Mapping[Value, np.ndarray], position: int) -> np.ndarray:
        value = self.group.inputs[position]
        if not self.plan.is_constant(value):
            return values[value]
        integers = self.constant(position).values.astype(np.int64)
        return np.broadcast_to(integers, self.plan.program.shape(value))

    def constant(self, position: int) -> FrozenConstant:
        return self.frozen.constants[operand_name(self.group, position)]

    def scale(self, position: int) -> np.float32:
        """Of the grid of an operand."""
        value = self.group.inputs[position]
        if self.plan.is_constant(value):
            return np.float32(self.constant(position).grid.scale)
        return np.float32(self.frozen.grids[self.plan.site_of[value]].scale)

    @property
    def step(self) -> np.float64:
        """Of the grid of the output."""
        return np.float64(np.float32(self.grid.scale))

    def __call__(self, *operands: np.ndarray) -> list[np.ndarray]:
        if isinstance(self.group, Move):
            # float32 holds every int16 exactly.
            moved = self.group.move(*(jnp.asarray(array, jnp.float32) for array in operands))
            return [_integers(array) for array in moved]
        low, high = held_to(getattr(self.group, "clamp", None), self.grid)
        return [np.clip(self.computed(*operands), low, high)]

    def computed(self, *operands: np.ndarray) -> np.ndarray:
        """What a group that computes leaves, before it is held to its grid."""
        match self.group:
            case Rectifier():
                (values,) = operands
            case Weighted():
                values = self.weighted(*operands)
            case Mean():
                values = self.mean(*operands)
            case AveragePool():
                values = self.average(*operands)
            case Elementwise():
                values = (
                    self.multiplied(*operands)
                    if self.group.op.name == "mul"
                    else self.added(*operands)
                )
            case Island():
                values = self.island(*operands)
            case _:
                raise ValueError(f"simulate: {self.group.name} has no kernel of int16 activations")
        return values

    def weighted(self, inputs: np.ndarray) -> np.ndarray:
        frozen = self.frozen.kernels[self.group.name]
        channels = self.group.channels

        def exactly(values: Array) -> np.ndarray:
            parts = (jnp.asarray(part) for part in exact_parts(frozen.kernel))
            return sum(_integers(self.group.product(values, part, exactly=True)) for part in parts)

        total = by_bytes(exactly, inputs)
        row = (1,) * (total.ndim - len(channels)) + channels
        total = total + frozen.bias.astype(np.int64).reshape(row)
        factors = np.float64(frozen.input_scale) * frozen.scale.astype(np.float64) / self.step
        if self.group.op.name == "dot_general":  # FULLY_CONNECTED scales in float64
            return rounded(total * factors.reshape(row))
        return scaled_sum(total, Multipliers(*(part.reshape(row) for part in multipliers(factors))))

    def mean(self, inputs: np.ndarray) -> np.ndarray:
        total = inputs.sum(self.group.axes).reshape(self.group.shape)
        by = divided(multipliers(np.float64(self.scale(0)) / self.step), self.group.count)
        return scaled(total, by)

    def average(self, inputs: np.ndarray) -> np.ndarray:
        """Integer division with ties away from zero."""
        count = self.group.count
        total = by_bytes(lambda values: _integers(self.group.window_sum(values)), inputs)
        size = (np.abs(total) + count // 2) // count
        return np.where(total > 0, size, -size)

    def multiplied(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        # MUL divides in float32.
        factor = self.scale(0) * self.scale(1) / np.float32(self.grid.scale)
        return scaled(first * second, multipliers(factor))

    def added(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Both terms on a grid twice as wide as the wider of theirs, with 15 more bits; then the output's."""
        scales = [np.float64(self.scale(position)) for position in range(2)]
        widest = 2 * max(scales)
        terms = [
            scaled(values << ADD_SHIFT, multipliers(scale / widest))
            for values, scale in zip((first, second), scales, strict=True)
        ]
        factor = widest / (2**ADD_SHIFT * self.step)
        if factor >= 1:
            raise ValueError(
                f"simulate: {self.group.name}: its terms reach {factor:.3g} times as far as a sum of int16 "
                "numbers can be scaled; calibrate with real data"
            )
        return scaled(terms[0] + terms[1], multipliers(factor))

    def island(self, *operands: np.ndarray) -> np.ndarray:
        """In float32, rounded with ties away from zero."""
        floats = [jnp.float32(v) * self.scale(position) for position, v in enumerate(operands)]
        held = [jnp.asarray(values) for values in self.frozen.held(self.group)]
        steps = np.asarray(self.group(floats, held)) / np.float32(self.grid.scale)
        return rounded(steps)


def by_bytes(linear: Callable[[Array], np.ndarray], values: np.ndarray) -> np.ndarray:
    """A linear function of int16 numbers from those of their two bytes, each exact in float32."""
    high, low = (jnp.asarray(part, jnp.float32) for part in (values >> 8, values & 255))
    return 256 * linear(high) + linear(low)


def held_to(clamp: Clamp | None, grid: Grid) -> tuple[int, int]:
    """The least and greatest integer that a rectifier leaves of a grid of zero point 0."""
    low, high = ends(grid.bits)
    if clamp is None:
        return low, high
    if np.isinf(clamp.high):
        return 0, high
    top = np.floor(np.float32(clamp.high) / np.float32(grid.scale) + np.float32(0.5))
    return 0, min(high, int(top))


def rounded(values: np.ndarray) -> np.ndarray:
    """The nearest integers, ties away from 0, int64."""
    return (np.sign(values) * np.floor(np.abs(values) + values.dtype.type(0.5))).astype(np.int64)


def _integers(array: Array) -> np.ndarray:
    return np.asarray(array).astype(np.int64)
