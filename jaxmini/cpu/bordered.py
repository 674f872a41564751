"""Bordered: XLA's own convolution, which takes much longer of pictures that have no border.

What has none gets one row of zeros below, and the results that see it are cut off.
"""

from typing import Any

import jax
from jax import lax

from jaxmini.cpu.convolution import Convolution, Pair

LAYOUT = ("NHWC", "HWIO", "NHWC")

# Of fewer features it is as fast without.
FEW = 4


def forward(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """The convolution, of pictures that are not dilated."""
    return convolve(x, w, c.stride, c.padding, rhs_dilation=c.rhs_dilation, precision=c.precision)


def convolve(
    x: jax.Array, w: jax.Array, stride: Pair, padding: tuple[Pair, Pair], **more: Any
) -> jax.Array:
    """[N, H, W, C] and [h, w, C, D] -> [N, *out, D], as ``lax.conv_general_dilated``."""
    if stride[0] > 1 or x.shape[-1] < FEW or any(side > 0 for axis in padding for side in axis):
        return lax.conv_general_dilated(x, w, stride, padding, dimension_numbers=LAYOUT, **more)
    (top, bottom), columns = padding
    lower = (top, bottom + stride[0]), columns
    y = lax.conv_general_dilated(x, w, stride, lower, dimension_numbers=LAYOUT, **more)
    return y[:, :-1]
