"""Frozen: every number of the quantized network as it will stand in a file, settled once, in NumPy.

The integer simulation and the exporters read this tree and nothing else: a scale computed twice may
differ in its last bit.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.grid import (
    Grid,
    fake_quant,
    fake_quant_average,
    least,
    quantized,
    symmetric,
)
from jaxmini.compress.quantize.kernels import MOST_BITS, Kernel
from jaxmini.compress.quantize.lookup import Lookup
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import AveragePool, Group, Move, Plan, Weighted
from jaxmini.compress.quantize.stored import KernelState, floats_of, in_force
from jaxmini.compress.quantize.subgraph import Subgraph
from jaxmini.model import Variables
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenKernel:
    """A kernel with everything folded into it.

    Attributes:
        kernel: int8 in [-127, 127], in less if it has fewer bits; [..., O] (HWIO of a convolution,
            [K, O] of a matrix).
        scale: float32 [O]; one for all channels is repeated.
        bias: int32 [O], on the grid ``input_scale * scale``; int64 beside activations of 16 bits, float32
            where activations stay float.
        input_scale: float32 [], scale of the grid of its input; None where that is float.
        bits: that hold every integer it may have.
    """

    kernel: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    input_scale: np.ndarray | None = None
    bits: int = MOST_BITS

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", int(self.bits))  # an array where it was stored as one

    @property
    def float_kernel(self) -> np.ndarray:
        """The numbers that the integers of the kernel stand for, float32 [..., O]."""
        return self.kernel.astype(np.float32) * self.scale

    @property
    def float_bias(self) -> np.ndarray:
        """The bias as numbers, float32 [O]."""
        if self.input_scale is None:
            return self.bias
        return (self.bias.astype(np.float64) * self.input_scale * self.scale).astype(np.float32)

    def stored_bias(self, bias: Array) -> Array:
        """Another bias [O] as numbers that a file can hold: whole steps, any where activations stay float."""
        if self.input_scale is None:
            return bias
        step = self.input_scale * self.scale
        return np.round(bias / step) * step


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenConstant:
    """An operand that does not depend on the input: ``values`` on ``grid``, int8 or int16."""

    values: np.ndarray
    grid: Grid

    @property
    def float_values(self) -> np.ndarray:
        """The numbers that the integers stand for, float32."""
        steps = self.values.astype(np.float32) - np.float32(self.grid.zero_point)
        return steps * np.float32(self.grid.scale)


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    """The integers and grids of a quantized network.

    Attributes:
        grids: the grid of each site of the plan.
        kernels: the kernel of each ``Weighted`` group, by the group's name.
        constants: the constant operands of the other groups, by ``operand_name(group, position)``; what a
            mask adds is its second, for no and for yes where a question says which.
        floats: what islands hold of the variables, float32, by ``operand_name(group, position in held)``.
    """

    grids: dict[str, Grid]
    kernels: dict[str, FrozenKernel]
    constants: dict[str, FrozenConstant]
    floats: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def held(self, group: Subgraph) -> list[np.ndarray]:
        """What a subgraph holds of the variables, in the order of ``group.held``."""
        return [self.floats[operand_name(group, position)] for position in range(len(group.held))]

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as one flat dict of arrays, as ``numpy.savez`` takes it."""
        flat = {}
        for site, grid in self.grids.items():
            flat |= _named(f"grids/{site}", grid.arrays())
        for name, kernel in self.kernels.items():
            fields = {field: v for field, v in vars(kernel).items() if v is not None}
            flat |= _named(f"kernels/{name}", fields)
        for name, constant in self.constants.items():
            flat |= _named(
                f"constants/{name}", {"values": constant.values, **constant.grid.arrays()}
            )
        for name, values in self.floats.items():
            flat |= _named(f"floats/{name}", {"values": values})
        return flat

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Frozen":
        """What ``arrays`` was made of.

        Raises:
            ValueError: ``arrays`` holds something else.
        """
        trees: dict[str, dict[str, dict[str, np.ndarray]]] = {kind: {} for kind in _PARTS}
        for key in arrays:
            kind, _, rest = key.partition("/")
            name, _, field = rest.rpartition("/")
            if kind not in trees or not name:
                raise ValueError(f"Frozen: the array {key!r} is no part of a frozen network")
            trees[kind].setdefault(name, {})[field] = arrays[key]
        return cls(
            **{
                kind: {name: _part(kind, name, fields) for name, fields in tree.items()}
                for kind, tree in trees.items()
            }
        )


# By the field of ``Frozen``: what its parts are made of.
_PARTS: Mapping[str, Callable[..., Any]] = {
    "grids": Grid.from_arrays,
    "kernels": FrozenKernel,
    "constants": lambda values, **grid: FrozenConstant(values, Grid.from_arrays(**grid)),
    "floats": lambda values: values,
}


def _part(kind: str, name: str, fields: Mapping[str, np.ndarray]) -> Any:
    try:
        return _PARTS[kind](**fields)
    except TypeError as error:
        raise ValueError(
            f"Frozen: {kind}/{name} holds {', '.join(sorted(fields))}, which is not what a frozen network "
            f"has there ({error})"
        ) from error


def operand_name(group: Group, position: int) -> str:
    """The name of a group's constant operand in ``Frozen.constants``."""
    return f"{group.name}#{position}"


def freeze(plan: Plan, variables: Variables) -> Frozen:
    """The integers and grids of a trained quantized model.

    Args:
        plan: of the model; its batch size does not matter.
        variables: with what quantization keeps among them.

    Raises:
        ValueError: the ranges are not the plan's, or one has never seen data.
    """
    grids, states = jax.tree.map(np.asarray, in_force(plan, variables))
    floats = floats_of(variables)
    # One compiled program: run one by one, hundreds of small operations would be compiled each.
    kernels, constants, held = jax.device_get(
        jax.jit(functools.partial(_folded, plan))(floats, grids, states)
    )
    roundings = {group.name: plan.kernel(group) for group in plan.weighted}
    return Frozen(
        grids,
        {
            name: _frozen_kernel(roundings[name], *kernel, bias_type=plan.bias_type)
            for name, kernel in kernels.items()
        },
        {name: _frozen_constant(_once(v), grid) for name, (v, grid) in constants.items()}
        | _frozen_masks(plan, grids),
        held,
    )


def _folded(
    plan: Plan, variables: Variables, grids: dict[str, Grid], states: dict[str, KernelState]
) -> tuple[dict, dict, dict]:
    """By name: kernel, bias, scale and input scale; values and grid of the constants; floats held."""
    floats, kernels, constants = Float(plan, variables), {}, {}
    for group in plan.weighted:
        kernel, bias = floats.weight(group)
        input_scale = plan.input_scale(group, grids)
        kernel, scale = states[group.name].prepare(plan.kernel(group), kernel, bias, input_scale)
        kernels[group.name] = kernel, bias, scale, input_scale
    for group in plan.groups:
        for position, value in enumerate(group.inputs):
            if plan.is_constant(value):
                values = floats.constant(group, position)
                grid = (
                    grids[group.site]
                    if isinstance(group, Move)
                    else symmetric(values, plan.constant_bits)
                )
                constants[operand_name(group, position)] = values, grid
    held = {
        operand_name(group, position): values
        for group in plan.groups
        if isinstance(group, Subgraph)
        for position, values in enumerate(floats.held(group))
    }
    return kernels, constants, held


class Dequantized:
    """The mode that runs frozen integers in floating point: fake quantization from the tree alone.

    An exporter derives from it, and marks what passes instead of rounding it.
    """

    clips = True

    def __init__(self, plan: Plan, frozen: Frozen) -> None:
        self.plan, self.frozen = plan, frozen

    def activation(self, site: str, values: Array) -> Array:
        return fake_quant(values, self.frozen.grids[site])

    def weight(self, group: Weighted) -> tuple[Array, Array]:
        kernel = self.frozen.kernels[group.name]
        return jnp.asarray(kernel.float_kernel), jnp.asarray(kernel.float_bias)

    def constant(self, group: Group, position: int) -> Array:
        values = self.frozen.constants[operand_name(group, position)].float_values
        # By NumPy: a converter would leave what JAX repeats as an operator of its own.
        return jnp.asarray(np.broadcast_to(values, self.plan.program.shape(group.inputs[position])))

    def table(self, group: Lookup) -> Array:
        return self.constant(group, 0)

    def average(self, group: AveragePool, values: Array) -> Array:
        return fake_quant_average(values, self.frozen.grids[group.site])

    def held(self, group: Subgraph) -> list[Array]:
        return [jnp.asarray(values) for values in self.frozen.held(group)]

    def subgraph(self, group: Subgraph, operands: Sequence[Array]) -> Array:
        return group(operands, self.held(group))

    def moved(self, group: Move, results: list[Array]) -> list[Array]:
        return results

    def mask(self, group: Mask, values: Array, kept: Array) -> Array:
        rounded = self.activation(group.site, group.lowered(values, kept))
        return group.hidden(rounded, kept, least(self.frozen.grids[group.site]))


def _frozen_kernel(
    rounding: Kernel,
    kernel: np.ndarray,
    bias: np.ndarray,
    scale: np.ndarray,
    input_scale: np.ndarray | None,
    bias_type: np.dtype | type = np.int32,
) -> FrozenKernel:
    steps = np.clip(np.round(kernel / scale), -rounding.limit, rounding.limit)
    if input_scale is None:
        return FrozenKernel(steps.astype(np.int8), scale, bias, bits=rounding.bits)
    bias_scale = np.float64(input_scale) * scale.astype(np.float64)
    bias_steps = np.round(bias.astype(np.float64) / bias_scale)
    return FrozenKernel(
        steps.astype(np.int8), scale, bias_steps.astype(bias_type), input_scale, rounding.bits
    )


def _once(values: np.ndarray) -> np.ndarray:
    """A constant that is repeated for each example, once: the batch size does not matter."""
    repeated = values.ndim > 1 and len(values) > 1 and bool((values == values[:1]).all())
    return values[:1] if repeated else values


def _frozen_constant(values: np.ndarray, grid: Grid) -> FrozenConstant:
    return FrozenConstant(np.asarray(quantized(values, grid)), jax.tree.map(np.asarray, grid))


def _frozen_masks(plan: Plan, grids: Mapping[str, Grid]) -> dict[str, FrozenConstant]:
    """What each mask adds."""
    masks = (group for group in plan.groups if isinstance(group, Mask))
    return {
        operand_name(mask, 1): FrozenConstant(
            mask.steps(), mask.step(grids[plan.input_site(mask)], grids[mask.site])
        )
        for mask in masks
    }


def _named(prefix: str, fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": np.asarray(value) for name, value in fields.items()}
