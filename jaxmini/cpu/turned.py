"""Turned: a filter gradient as XLA's own convolution, its pictures turned beforehand.

XLA needs the features in the batch's place. Left to it, that is done number by number while the pictures are
computed, which touches every line of memory once for each feature. Turned here picture by picture, which stay
in the processor's cache, and then as rows.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxmini.cpu.convolution import Convolution
from jaxmini.cpu.window import room

DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Fewer numbers of the pictures than these, a megabyte, are left to XLA.
WORTH = 1 << 18

# Numbers between the rows of two pictures: as far apart as a power of two they would share places in the
# processor's cache.
APART = 16


def filter_gradient(x: jax.Array, g: jax.Array, c: Convolution) -> jax.Array:
    """Pictures [N, H, W, C] and gradients [N, *c.kernel, D] -> [*c.out, C, D], at stride 1."""
    y = lax.conv_general_dilated(
        features_first(x),
        examples_inside(g),
        (1, 1),
        c.padding,
        dimension_numbers=DIMENSIONS,
        precision=c.precision,
    )
    return y.transpose(1, 2, 0, 3)


def features_first(x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [C, H, W, N]."""
    n, height, width, features = x.shape
    size = x[0].size

    def turn(number: jax.Array, rows: jax.Array) -> jax.Array:
        picture = lax.dynamic_index_in_dim(x, number, keepdims=False).reshape(-1, features)
        return lax.dynamic_update_slice(rows, picture.T.reshape(1, size), (number, jnp.int32(0)))

    # A loop is a wall to XLA: what is before it and what is after are not computed together.
    rows = lax.fori_loop(0, n, turn, room(x, (n, size + APART)))
    return rows[:, :size].T.reshape(features, height, width, n)


def examples_inside(g: jax.Array) -> jax.Array:
    """[N, H, W, D] -> [H, W, N, D]."""
    n, height, width, features = g.shape

    def turn(number: jax.Array, rows: jax.Array) -> jax.Array:
        picture = lax.dynamic_index_in_dim(g, number, keepdims=False).reshape(-1, features)
        return lax.dynamic_update_index_in_dim(rows, picture, number, 1)

    rows = lax.fori_loop(0, n, turn, room(g, (height * width, n, features)))
    return rows.reshape(height, width, n, features)
