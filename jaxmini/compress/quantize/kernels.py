"""Kernels: which numbers the integers of a kernel stand for; one symmetric grid a channel, or one in all.

The grid follows the kernel as it is trained, so there is nothing to calibrate.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize.grid import (
    LARGEST_BIAS,
    SMALLEST_KERNEL,
    as_bits,
    fake_quant_steps,
    straight_through,
)
from jaxmini.state import Array

Reduction: TypeAlias = Callable[[Array], Array]

FEWEST_BITS, MOST_BITS = 2, 8
# Clips tried, as parts of the largest magnitude. Two bits ask for a third of it, eight for nearly all.
PARTS = np.concatenate([np.linspace(1, 0.98, 11), np.linspace(0.975, 0.1, 36)]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Integers ``-limit..limit`` times a scale; ``per_channel`` or ``per_tensor`` says whose.

    Attributes:
        bits: 2..8; ``limit`` is ``2**(bits - 1) - 1``. A file stores fewer than 8 as int8, or at most
            4 as int4 where it is asked for.
        mse: take the clip of the least squared error (Banner et al., 2019) for the largest magnitude.
    """

    bits: int = MOST_BITS
    mse: bool = False

    # Whether gradients move the scales (``learned_kernels``).
    learned = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", as_bits(self.bits))
        name = type(self).__name__
        if not (isinstance(self.bits, int) and FEWEST_BITS <= self.bits <= MOST_BITS):
            raise ValueError(
                f"{name}: bits is {self.bits!r}, expected an integer {FEWEST_BITS}..{MOST_BITS}"
            )

    @property
    def limit(self) -> int:
        """The greatest integer of the kernel."""
        return 2 ** (self.bits - 1) - 1

    def shared(self, channels: Array, reduce: Reduction) -> Array:
        """A number for each channel [O], reduced over the channels that share a scale."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say which channels share a scale"
        )

    def scale(
        self, kernel: Array, bias: Array, input_scale: Array, step: Array | None = None
    ) -> jax.Array:
        """Scale of each output channel, float32 [O]; shared ones are repeated. It has no gradient.

        It stays above zero where BatchNorm has silenced a channel, and is raised where a bias would not
        fit int32 on the grid ``input_scale * scale``.

        Args:
            kernel: [..., O].
            bias: [O].
            input_scale: scale of the grid the kernel's input lies on, [].
            step: what training has made of the scale, [O], where that is learned.
        """
        rows = lax.stop_gradient(kernel).reshape(-1, kernel.shape[-1])
        largest = self.shared(jnp.max(jnp.abs(rows), axis=0), jnp.max)
        clip = self._least_squares(rows, largest) if self.mse else largest
        least = jnp.abs(lax.stop_gradient(bias)) / (input_scale * LARGEST_BIAS)
        scale = jnp.maximum(self._step(clip), self.shared(least, jnp.max))
        return lax.stop_gradient(scale)

    def fake_quant(self, kernel: Array, scale: Array) -> jax.Array:
        """A kernel [..., O] rounded to whole steps of ``scale`` [O], ties to even, and clipped.

        The gradient is 1, and 0 where the kernel is clipped.
        """
        if not self.mse:  # the scale spans the kernel: there is nothing to clip
            return fake_quant_steps(kernel, scale)
        scale = scale.reshape((1,) * (kernel.ndim - 1) + (-1,))
        steps = jnp.round(kernel / scale)
        moving = jnp.where(jnp.abs(steps) > self.limit, lax.stop_gradient(kernel), kernel)
        return straight_through(moving, jnp.clip(steps, -self.limit, self.limit) * scale)

    def _step(self, clip: Array) -> Array:
        return jnp.maximum(clip, SMALLEST_KERNEL) * np.float32(1 / self.limit)

    def _least_squares(self, rows: Array, largest: Array) -> Array:
        """The part of ``largest`` [O] whose rounding of ``rows`` [K, O] loses least; the wider of equals."""

        def narrower(best: tuple[Array, Array], part: Array) -> tuple[tuple[Array, Array], None]:
            least, clip = best
            lost = jnp.sum(jnp.square(self.fake_quant(rows, self._step(largest * part)) - rows), 0)
            lost = self.shared(lost, jnp.sum)
            better = lost < least
            return (jnp.where(better, lost, least), jnp.where(better, largest * part, clip)), None

        (_, clip), _ = lax.scan(narrower, (jnp.full_like(largest, jnp.inf), largest), PARTS)
        return clip


@dataclasses.dataclass(frozen=True)
class per_channel(Kernel):
    """One scale an output channel (the LiteRT 8-bit specification)."""

    def shared(self, channels: Array, reduce: Reduction) -> Array:
        return channels


@dataclasses.dataclass(frozen=True)
class per_tensor(Kernel):
    """One scale for all output channels, for hardware that knows no more."""

    def shared(self, channels: Array, reduce: Reduction) -> Array:
        return jnp.broadcast_to(reduce(channels), channels.shape)
