"""Learned kernels: scales of kernels that gradients move (LSQ, Esser et al., 2020).

The integers are ``-limit..limit``, as the LiteRT 8-bit specification has it: one less than the paper's Q_N.
The kernel is the one that is rounded, with BatchNorm folded into it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize.grid import (
    LARGEST_BIAS,
    straight_through,
)
from jaxmini.compress.quantize.kernels import Kernel, per_channel, per_tensor
from jaxmini.compress.quantize.learned import rounded, scaled_gradient
from jaxmini.state import Array


class _Lsq(Kernel):
    """What the two have in common: scales are ``start`` plus what training has added."""

    learned = True

    def start(self, kernel: Array) -> jax.Array:
        """Where the scale of a kernel [..., O] starts, float32 [O], > 0.

        ``2 E|w| / sqrt(Q_P)`` (Esser et al., section 2.1), or the clip of the least squared error if ``mse``.
        """
        rows = lax.stop_gradient(kernel).reshape(-1, kernel.shape[-1])
        if self.mse:
            largest = self.shared(jnp.max(jnp.abs(rows), axis=0), jnp.max)
            return self._step(self._least_squares(rows, largest))
        mean = self.shared(jnp.mean(jnp.abs(rows), axis=0), jnp.mean)
        return jnp.maximum(mean * np.float32(2 / np.sqrt(self.limit)), self._step(jnp.float32(0)))

    def added(self, channels: int) -> tuple[int, ...]:
        """Shape of what training adds to the scales of a kernel with so many channels."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many scales it learns")

    def scale(
        self, kernel: Array, bias: Array, input_scale: Array, step: Array | None = None
    ) -> jax.Array:
        """The learned ``step`` [O] held above zero, and where a bias fits int32; gradients go through.

        Raises:
            ValueError: there is no ``step``.
        """
        least = jnp.abs(lax.stop_gradient(bias)) / (input_scale * LARGEST_BIAS)
        floor = jnp.maximum(self._step(jnp.float32(0)), self.shared(least, jnp.max))
        if step is None:
            raise ValueError(f"{self}: a learned scale is wanted, and none is given")
        return straight_through(step, jnp.maximum(step, lax.stop_gradient(floor)))

    def fake_quant(self, kernel: Array, scale: Array) -> jax.Array:
        """A kernel [..., O] on whole steps of ``scale`` [O], with gradients to both (equations 3 and 5)."""
        sharing = kernel.size // max(int(np.prod(self.added(kernel.shape[-1]))), 1)
        scale = scaled_gradient(scale, jnp.float32(1 / np.sqrt(sharing * self.limit)))
        row = scale.reshape((1,) * (kernel.ndim - 1) + (-1,))
        steps, limit = kernel / lax.stop_gradient(row), self.limit
        return rounded(kernel, row, steps <= -limit, steps >= limit, -limit * row, limit * row)


@dataclasses.dataclass(frozen=True)
class lsq_per_channel(_Lsq, per_channel):
    """One learned scale an output channel; its gradient is times 1 / sqrt(N Q_P), N weights a channel."""

    def added(self, channels: int) -> tuple[int, ...]:
        return (channels,)


@dataclasses.dataclass(frozen=True)
class lsq_per_tensor(_Lsq, per_tensor):
    """One learned scale for all output channels; its gradient is times 1 / sqrt(N Q_P), N all weights."""

    def added(self, channels: int) -> tuple[int, ...]:
        return ()
