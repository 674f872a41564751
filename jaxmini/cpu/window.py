"""Window: the parts of a padded picture that the taps of a kernel meet, and the parts of a batch."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from jaxmini.cpu.convolution import Convolution, Pair


def pad(x: jax.Array, padding: tuple[Pair, Pair], dilation: Pair = (1, 1)) -> jax.Array:
    """Zeros around [N, H, W, C] and between its pixels; negative padding cuts."""
    if not any(side for axis in padding for side in axis) and dilation == (1, 1):
        return x
    (top, bottom), (left, right) = padding
    inner = tuple(step - 1 for step in dilation)
    edges = ((0, 0, 0), (top, bottom, inner[0]), (left, right, inner[1]), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def window(x: jax.Array, at: Pair, out: Pair, step: Pair = (1, 1)) -> jax.Array:
    """Every ``step``-th pixel of [N, H, W, C] from ``at`` on, ``out`` of them."""
    n, _, _, c = x.shape
    end = [first + (count - 1) * by + 1 for first, count, by in zip(at, out, step, strict=True)]
    return lax.slice(x, (0, *at, 0), (n, *end, c), (1, *step, 1))


def positions(kernel: Pair, dilation: Pair = (1, 1)) -> Iterator[tuple[Pair, Pair]]:
    """Each tap of a kernel, and where it lies on the picture."""
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            yield (i, j), (i * dilation[0], j * dilation[1])


def meetings(c: Convolution, axis: int) -> list[tuple[int, int, int]]:
    """Along an axis: each (result, tap, pixel) where the tap of a result meets a true pixel."""
    found = []
    for result in range(c.out[axis]):
        for tap in range(c.kernel[axis]):
            at = result * c.stride[axis] + tap * c.rhs_dilation[axis] - c.padding[axis][0]
            pixel, between = divmod(at, c.lhs_dilation[axis])
            if not between and 0 <= pixel < c.size[axis]:
                found.append((result, tap, pixel))
    return found


def parts(x: jax.Array, count: int) -> jax.Array:
    """[N, ...] as [count, ceil(N / count), ...], zeros after the last where it does not come out even."""
    size = -(-x.shape[0] // count)
    rest = count * size - x.shape[0]
    if rest:
        x = lax.pad(x, jnp.zeros((), x.dtype), ((0, rest, 0), *((0, 0, 0),) * (x.ndim - 1)))
    return x.reshape(count, size, *x.shape[1:])


def room(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """An array for a loop to fill, of the dtype of the [N, ...] that it reads.

    Zeros would wait for nothing: XLA makes those of all loops at once, before the first.
    """
    return jnp.broadcast_to(0 * x.reshape(-1)[:1].reshape((1,) * len(shape)), shape)
