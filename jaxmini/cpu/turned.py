"""Turned: a filter gradient as XLA's own convolution, of some pictures at a time.

XLA needs the features in the batch's place. Of a whole batch that touches every line of memory once for each
feature, and then its sums read all of it again for each of their rows; some pictures stay in the processor's
cache throughout.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxmini.cpu.abreast import ROW
from jaxmini.cpu.bordered import LAYOUT
from jaxmini.cpu.convolution import Convolution, sums
from jaxmini.cpu.window import room

# Numbers of the pictures, or of the gradients, that are worked on at a time: an eighth of a megabyte; but two
# pictures at least, for one is a convolution of a single feature.
PART, LEAST = 1 << 15, 2

# Fewer numbers of the pictures, and of the gradients, are left to XLA: a megabyte.
WORTH = 1 << 18


def filter_gradient(x: jax.Array, g: jax.Array, c: Convolution) -> jax.Array:
    """Pictures [N, H, W, C] and gradients [N, *c.kernel, D] -> [*c.out, C, D], at stride 1."""
    count = pictures(c)
    pairs = 1 + (c.out_features < ROW and c.kernel[1] % 2 == 0)
    (height, width), (down, along) = c.out, c.rhs_dilation

    def add(part: jax.Array, total: jax.Array) -> jax.Array:
        mine = [lax.dynamic_slice_in_dim(array, part * count, count) for array in (x, g)]
        beside = mine[1].reshape(count, c.kernel[0], -1, pairs * c.out_features)
        y = lax.conv_general_dilated(
            mine[0].transpose(3, 1, 2, 0),
            beside.transpose(1, 2, 0, 3),
            (1, 1),
            c.padding,
            rhs_dilation=(down, along * pairs),
            dimension_numbers=LAYOUT,
            precision=c.precision,
            preferred_element_type=sums(c.dtype),
        )
        return jnp.where(part == 0, 0, total) + y

    shape = c.batch, height, width + (pairs - 1) * along, pairs * c.out_features
    total = lax.fori_loop(0, len(x) // count, add, room(g, shape).astype(sums(c.dtype)))
    each = total.reshape(*shape[:3], pairs, c.out_features)
    y = sum(each[:, :, q * along : q * along + width, q] for q in range(pairs))
    return y.transpose(1, 2, 0, 3)


def pictures(c: Convolution) -> int:
    """Of a batch, at a time: as many as come out even, and no more than ``PART`` numbers but ``LEAST``."""
    examples = c.features  # in the place of features, as the convolution is written
    numbers = max(c.batch * c.size[0] * c.size[1], c.out_features * c.taps)
    most = min(examples, max(LEAST, PART // numbers))
    return next(count for count in range(most, 0, -1) if examples % count == 0)
