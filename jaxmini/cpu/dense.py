"""Dense: convolutions of every feature with every other, as matrix products.

Each takes the operands in one layout (``convolution.as_pictures`` or ``as_examples``) and the convolution.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxmini.cpu.convolution import Convolution, Pair, sums
from jaxmini.cpu.phases import Taps, interleave
from jaxmini.cpu.window import pad, positions, window


def pointwise(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """A 1x1 kernel at stride 1: the pixels times the matrix, and zeros around and between what came out."""
    return pad(_pixelwise(x, w[0, 0], c), c.padding, c.lhs_dilation)


def patches(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """Kernels that do not overlap: cut the picture into patches, one product."""
    (kh, kw), (ho, wo) = c.kernel, c.out
    x = x[:, : ho * kh, : wo * kw].reshape(c.batch, ho, kh, wo, kw, c.features)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(c.batch, ho, wo, -1)
    return _pixelwise(x, w.reshape(-1, c.out_features), c)


def filter_by_columns(x: jax.Array, g: jax.Array, c: Convolution) -> jax.Array:
    """A filter gradient: what the taps see side by side (im2col), one product that sums all pixels."""
    x = pad(x, c.padding, c.lhs_dilation)
    seen = [window(x, at, c.kernel, c.rhs_dilation) for _, at in positions(c.out, c.stride)]
    rows = jnp.concatenate(seen, -1).reshape(-1, c.batch * len(seen))
    y = product(rows, g.reshape(-1, c.out_features), (0, 0), c)
    return y.reshape(*c.out, c.batch, c.out_features)


def input_by_columns(g: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """A strided input gradient: one product, then the sum of what the taps give to each pixel (col2im)."""
    taps = w.transpose(2, 0, 1, 3).reshape(c.features, -1)
    given = _pixelwise(g, taps, c).reshape(*g.shape[:3], *c.kernel, c.out_features)

    def gather(rows: Taps, columns: Taps, size: Pair) -> jax.Array:
        height, width = c.size
        return sum(
            pad(
                given[:, :, :, i, j],
                ((-top, size[0] - height + top), (-left, size[1] - width + left)),
            )
            for i, top in rows
            for j, left in columns
        )

    return interleave(g, c, gather)


def product(a: jax.Array, b: jax.Array, contract: Pair, c: Convolution) -> jax.Array:
    """A matrix product over one axis of each, summed in float32 at least."""
    return lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=c.precision,
        preferred_element_type=sums(c.dtype),
    )


def _pixelwise(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """[N, H, W, C] times [C, D]."""
    return product(x.reshape(-1, x.shape[-1]), w, (1, 0), c).reshape(*x.shape[:3], -1)
