"""Paired: a convolution of few features, with neighbouring pixels side by side as features.

XLA's convolution of an RGB picture to a few features runs at a small part of the processor's speed; of twice
the features, over half the width, it does not. Two results of a row read ``stride + kernel`` pixels, which
lie in pairs of stretches as wide as two strides, so little is multiplied with zeros.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.cpu.convolution import Convolution
from jaxmini.cpu.window import pad

LAYOUT = ("NHWC", "HWIO", "NHWC")
PAIR = 2


def forward(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """The convolution, of no dilation."""
    (kh, kw), (height, width), stride = c.kernel, c.out, c.stride[1]
    stretch, pairs = PAIR * stride, -(-width // PAIR)
    reach = -(-((PAIR - 1) * stride + kw) // stretch)
    left = c.padding[1][0]
    right = (pairs + reach - 1) * stretch - c.size[1] - left
    x = pad(x, (c.padding[0], (left, right)))
    x = x.reshape(*x.shape[:2], -1, stretch * c.features)
    where = jnp.asarray(_where(kw, reach, stretch, stride), w.dtype)
    w = jnp.einsum("jmpq,ijco->impcqo", where, w, precision=lax.Precision.HIGHEST)
    y = lax.conv_general_dilated(
        x,
        w.reshape(kh, reach, stretch * c.features, PAIR * c.out_features),
        (c.stride[0], 1),
        "VALID",
        dimension_numbers=LAYOUT,
        precision=c.precision,
    )
    return y.reshape(c.batch, height, PAIR * pairs, c.out_features)[:, :, :width]


def _where(kernel: int, reach: int, stretch: int, stride: int) -> np.ndarray:
    """1 where column j of the kernel lies, for result q of a pair, on pixel p of stretch m: [j, m, p, q]."""
    j, m, p, q = np.ogrid[:kernel, :reach, :stretch, :PAIR]
    return j == m * stretch + p - q * stride
