"""Phases: a strided input gradient without the zeros that the stride puts between its pixels.

Each offset within a stride meets taps of its own; what they give is computed for each, and interleaved.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmini.cpu.convolution import Convolution, Pair, sums

# The taps that meet pixels of one offset, each with the pixel of the gradient that the first of them takes.
Taps = list[tuple[int, int]]


def interleave(
    g: jax.Array, c: Convolution, phase: Callable[[Taps, Taps, Pair], jax.Array]
) -> jax.Array:
    """The whole result [N, *c.out, features] of its phases.

    Args:
        g: [N, *c.size, features], undilated.
        c: with ``lhs_dilation`` the stride, no other stride and no other dilation.
        phase: taps of the rows and of the columns, size -> [N, *size, features].
    """
    down, along = c.lhs_dilation
    size = (-(-c.out[0] // down), -(-c.out[1] // along))
    rows = [_meeting(c.kernel[0], down, c.padding[0][0], offset) for offset in range(down)]
    columns = [_meeting(c.kernel[1], along, c.padding[1][0], offset) for offset in range(along)]
    nothing = jnp.zeros((c.batch, *size, c.out_features), sums(g.dtype))
    found = [[phase(i, j, size) if i and j else nothing for j in columns] for i in rows]
    y = jnp.stack([jnp.stack(row, 3) for row in found], 2)
    y = y.reshape(c.batch, size[0] * down, size[1] * along, c.out_features)
    return y[:, : c.out[0], : c.out[1]]


def _meeting(kernel: int, stride: int, before: int, offset: int) -> Taps:
    return [
        (tap, (offset + tap - before) // stride)
        for tap in range(kernel)
        if (offset + tap - before) % stride == 0
    ]
