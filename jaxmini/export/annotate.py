"""Annotate: a quantized plan as a function whose StableHLO carries our scales to the converter.

The annotations are the composites ``quant.*`` that TensorFlow's and LiteRT's converters read in strict mode
(tensorflow/compiler/mlir/lite/transforms/lower_quant_annotations_pass.cc).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.evaluate import evaluate_all
from jaxmini.compress.quantize.frozen import Dequantized, Frozen, operand_name
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import AveragePool, Group, Plan, Weighted
from jaxmini.compress.quantize.program import Value
from jaxmini.compress.quantize.subgraph import Subgraph
from jaxmini.state import Array

# Moves whose result converters leave in float where an addition reads it.
UNKNOWN = frozenset({"rev"})


def annotated(
    plan: Plan, frozen: Frozen, *also: Value
) -> Callable[[Array], Array | tuple[Array, ...]]:
    """The function int8 images (or int32 tokens) -> int8 logits that a converter turns into the file.

    Both are int16 where the plan's activations are of 16 bits.

    It is made to be lowered, not to be run: composites have no batching rule, and the body of most is the
    identity.

    Args:
        plan: made for the file's batch.
        frozen: the integers and grids the file must hold.
        also: values of the plan that are outputs too, after the logits.
    """

    def function(image: Array) -> Array | tuple[Array, ...]:
        values = evaluate_all(plan, Annotations(plan, frozen, frozenset(also)), image)
        outputs = tuple(
            quantize(values[value], frozen.grids[plan.site_of[value]])
            for value in (plan.output, *also)
        )
        return outputs if also else outputs[0]

    return function


class Annotations(Dequantized):
    """The hooks that mark every number of the plan with the grid it lies on."""

    clips = False  # the readers are operators of the file, and the grid has its ends

    def __init__(self, plan: Plan, frozen: Frozen, read: frozenset[Value] = frozenset()) -> None:
        super().__init__(plan, frozen)
        self.read = read

    def moved(self, group: Group, results: list[Array]) -> list[Array]:
        """Numbers that were moved keep their grid; it is said again where converters do not know."""
        grid, is_unknown = self.frozen.grids[group.site], group.op.name in UNKNOWN
        return [
            fake_quant(values, grid) if is_unknown or value in self.read else values
            for value, values in zip(group.outputs, results, strict=True)
        ]

    def activation(self, site: str, values: Array) -> Array:
        # The argument of the function alone is of integers; what shares its site is computed.
        mark = dequantize if values.dtype == self.frozen.grids[site].dtype else fake_quant
        return mark(values, self.frozen.grids[site])

    def weight(self, group: Weighted) -> tuple[Array, Array]:
        kernel, bias = super().weight(group)
        return fake_quant_kernel(kernel, self.frozen.kernels[group.name].scale), bias

    def constant(self, group: Group, position: int) -> Array:
        grid = self.frozen.constants[operand_name(group, position)].grid
        return fake_quant(super().constant(group, position), grid)

    def mask(self, group: Mask, values: Array, kept: Array) -> Array:
        """As the addition that the file computes; of a question by looking up what no and yes add."""
        added = self.frozen.constants[operand_name(group, 1)]
        table = fake_quant(jnp.asarray(added.float_values), added.grid)
        if group.kept is None:
            table = jnp.take(table, kept.astype(jnp.int32), axis=0, mode="clip")
        return fake_quant(values + table, self.frozen.grids[group.site])

    def subgraph(self, group: Subgraph, operands: Sequence[Array]) -> Array:
        if not isinstance(group, Island):
            return group.written(operands, self.held(group))
        # Without barriers converters carry the grid at a shore inland through what chooses, and round there.
        operands = jax.lax.optimization_barrier(list(operands))
        return jax.lax.optimization_barrier(group.written(operands, self.held(group)))

    def average(self, group: AveragePool, values: Array) -> Array:
        return values  # the converter gives the pool the grid of its input


def fake_quant(values: Array, grid: Grid) -> Array:
    """Float values marked as lying on a grid."""
    return _composite("quant.fake_quant", _identity, values, **_attributes(grid))


def fake_quant_kernel(kernel: Array, scale: np.ndarray) -> Array:
    """A kernel [..., O] marked as int8 with one scale an output channel, [O].

    A matrix is marked in the file's order, [O, K]: behind the mark of one that two products share,
    TensorFlow's converter would leave its own transpose in float.
    """
    if kernel.ndim == 2:
        return _fake_quant_channels(kernel.T, scale, 0).T
    return _fake_quant_channels(kernel, scale, kernel.ndim - 1)


def _fake_quant_channels(kernel: Array, scale: np.ndarray, axis: int) -> Array:
    return _composite(
        "quant.fake_quant",
        _identity,
        kernel,
        scale=np.asarray(scale, np.float32),
        dtype="i8",
        narrow_range=True,
        quantization_dimension=axis,
    )


def dequantize(integers: Array, grid: Grid) -> Array:
    """The float values of an integer argument of the function; the file's input becomes that argument."""

    def body(values: Array, **_: Any) -> Array:
        steps = values.astype(jnp.float32) - jnp.float32(grid.zero_point)
        return steps * jnp.float32(grid.scale)

    return _composite("quant.dequantize", body, integers, **_attributes(grid))


def quantize(values: Array, grid: Grid) -> Array:
    """The integers of a result of the function; the file's output becomes that result."""

    def body(values: Array, **_: Any) -> Array:
        steps = jnp.round(values / jnp.float32(grid.scale)) + jnp.float32(grid.zero_point)
        return jnp.clip(steps, grid.low, grid.high).astype(grid.dtype)

    return _composite("quant.quantize", body, values, **_attributes(grid))


def _composite(name: str, body: Callable[..., Array], operand: Array, **attributes: Any) -> Array:
    return jax.lax.composite(body, name=name)(operand, **attributes)


def _identity(values: Array, **_: Any) -> Array:
    return values


def _attributes(grid: Grid) -> dict[str, Any]:
    return {
        "scale": np.asarray(grid.scale, np.float32).reshape(1),
        "zero_point": np.asarray(grid.zero_point, np.int64).reshape(1),
        "dtype": f"i{grid.bits}",
        "narrow_range": False,
    }
