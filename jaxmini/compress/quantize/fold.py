"""Fold: a per-channel affine chain after a product becomes part of its kernel and bias.

BatchNorm in inference form is such a chain, and so is a bias: neither has to be recognised by name.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from jaxmini.compress.quantize.program import Value, read
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """One step of a chain: ``x + operand`` (add, sub, mul, div), or ``operand - x`` if ``left``; or -x."""

    name: str
    operand: Value | None = None
    left: bool = False

    def after(self, factor: Array, shift: Array, operand: Array) -> tuple[Array, Array]:
        """The factor and shift of this step applied to ``factor * x + shift``."""
        match self.name, self.left:
            case "add", _:
                return factor, shift + operand
            case "sub", False:
                return factor, shift - operand
            case "sub", True:
                return -factor, operand - shift
            case "mul", _:
                return factor * operand, shift * operand
            case "div", False:
                return factor / operand, shift / operand
            case "neg", _:
                return -factor, -shift
        raise ValueError(f"{self} is not affine")


def is_per_channel(shape: Sequence[int], channels: Sequence[int]) -> bool:
    """Whether an operand of this shape holds one number for each output channel (or for all)."""
    rank = min(len(shape), len(channels))
    lead, tail = shape[: len(shape) - rank], shape[len(shape) - rank :]
    aligned = zip(tail, channels[len(channels) - rank :], strict=True)
    return math.prod(lead) == 1 and all(size in (1, wanted) for size, wanted in aligned)


def fold(
    kernel: Array, chain: Sequence[Affine], channels: tuple[int, ...], values: Mapping[int, Array]
) -> tuple[Array, Array]:
    """The kernel [..., O] and the bias [O] that do what the kernel and the chain do.

    Args:
        kernel: [..., O].
        channels: shape of the output channels, O numbers in all.
        values: the program's values that depend on the variables alone.
    """
    factor, shift = jnp.ones(channels, jnp.float32), jnp.zeros(channels, jnp.float32)
    for step in chain:
        operand = (
            jnp.float32(0) if step.operand is None else jnp.asarray(read(values, step.operand))
        )
        rank = min(operand.ndim, len(channels))
        tail = operand.reshape(operand.shape[operand.ndim - rank :])
        factor, shift = step.after(factor, shift, jnp.broadcast_to(tail, channels))
    return kernel * factor.reshape((1,) * (kernel.ndim - 1) + (-1,)), shift.reshape(-1)
