"""Abreast: a convolution of few features, some results of a row side by side as features of one.

A processor multiplies a number by a row of features at a time, as many as two of its registers hold; of few
features XLA leaves the rest of these empty. Over a stride as many times as long, a kernel as much wider gives
them all: some taps of each are zeros.
"""

import jax
import jax.numpy as jnp

from jaxmini.cpu.bordered import convolve
from jaxmini.cpu.convolution import Convolution

# The features that come out are made as many as these: two registers of float32 where they hold 16.
ROW = 32
# From some features to half a row of them, on large maps, XLA takes all threads, and to a whole row one: the
# threads outweigh the empty register.
SOME, LARGE = 8, 512


def forward(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """The convolution, of no dilation."""
    x, w = (_even(array, axis) for array, axis in ((x, 3), (w, 2)))
    step, ahead = c.stride[1], beside(c) - 1
    kernels = [
        jnp.pad(w, ((0, 0), (q * step, (ahead - q) * step), (0, 0), (0, 0)))
        for q in range(ahead + 1)
    ]
    stretches, rest = divmod(-c.out[1], ahead + 1)
    y = convolve(
        x,
        jnp.concatenate(kernels, -1),
        (c.stride[0], step * (ahead + 1)),
        (c.padding[0], (c.padding[1][0], c.padding[1][1] + rest * step)),
        precision=c.precision,
    )
    return y.reshape(c.batch, c.out[0], -stretches * (ahead + 1), -1)[:, :, : c.out[1]]


def beside(c: Convolution) -> int:
    """Results side by side: a power of two, no more than a row has."""
    most = max(1, min(ROW // c.out_features, c.out[1]))
    return 1 << most.bit_length() - 1


def _even(array: jax.Array, axis: int) -> jax.Array:
    """With one more feature, zeros, where they are odd: XLA is many times slower then."""
    if array.shape[axis] == 1 or array.shape[axis] % 2 == 0:
        return array
    widths = [(0, int(each == axis)) for each in range(array.ndim)]
    return jnp.pad(array, widths)
