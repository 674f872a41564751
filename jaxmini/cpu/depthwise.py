"""Depthwise: convolutions of each feature by itself, as multiply-adds over whole rows of features."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmini.cpu.convolution import Convolution, Pair, sums
from jaxmini.cpu.dense import product
from jaxmini.cpu.phases import Taps, interleave
from jaxmini.cpu.window import meetings, pad, parts, positions, window

# Below so many values of the gradient the plain sum costs little, and it compiles faster.
SMALL = 1 << 15
# Parts of a batch that a filter gradient adds up first; more take longer to compile, and to run.
SLABS = 8


def multiply_add(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """The sum over taps of what each sees times its weights; any stride, padding and dilation."""
    x, w = _alike(x, w, c)
    x = pad(x, c.padding, c.lhs_dilation)
    rows, columns = ({tap for _, tap, _ in meetings(c, axis)} for axis in (0, 1))
    y = sum(
        window(x, at, c.out, c.stride) * w[i, j]
        for (i, j), at in positions(c.kernel, c.rhs_dilation)
        if i in rows and j in columns
    )
    return _gathered(y, c)


def multiply_add_pixels(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """The same for the few pixels of a small map, which padding would make a larger one."""
    x, w = _alike(x, w, c)
    y = _by_pixel(c, lambda i, j, k, m: x[:, i, j] * w[k, m, 0, 0])
    nothing = jnp.zeros(x.shape[:1] + x.shape[3:], x.dtype)
    return _gathered(
        jnp.stack([jnp.stack([nothing if v is None else v for v in row], 1) for row in y], 1), c
    )


def input_by_phases(g: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """A strided input gradient: multiply-adds for each offset within a stride, interleaved."""
    g, w = _alike(g, w, c)

    def add(rows: Taps, columns: Taps, size: Pair) -> jax.Array:
        around, first = [], []
        for taps, extent, length in zip((rows, columns), size, c.size, strict=True):
            first.append(max(0, -taps[0][1]))
            around.append((first[-1], max(0, extent + taps[-1][1] - length)))
        padded = pad(g, tuple(around))
        y = sum(
            window(padded, (row + first[0], column + first[1]), size) * w[i, j]
            for i, row in rows
            for j, column in columns
        )
        return _gathered(y, c)

    return interleave(g, c, add)


def filter_by_pixels(x: jax.Array, g: jax.Array, c: Convolution) -> jax.Array:
    """A filter gradient, for the few pixels of a small map."""
    x, g = _wide(x, c.multiplier), _float32(g)
    taps = _by_pixel(c, lambda i, j, k, m: x[:, i, j] * g[:, k, m])
    ones, nothing = jnp.ones((1, len(g)), g.dtype), jnp.zeros((1, g.shape[-1]), g.dtype)
    totals = [
        nothing if added is None else product(ones, added, (1, 0), c)
        for added in itertools.chain(*taps)
    ]
    return jnp.stack(totals).reshape(*c.out, 1, -1)


def filter_by_sums(x: jax.Array, g: jax.Array, c: Convolution) -> jax.Array:
    """A filter gradient: what each tap sees times the gradient, summed over examples and space."""
    x, g = _wide(x, c.multiplier), _float32(g)
    x = pad(x, c.padding)
    taps = [
        jnp.sum(window(x, at, c.kernel, c.rhs_dilation) * g, (0, 1, 2))
        for _, at in positions(c.out, c.stride)
    ]
    return jnp.stack(taps).reshape(*c.out, 1, c.out_features)


def filter_by_slabs(x: jax.Array, g: jax.Array, c: Convolution) -> jax.Array:
    """The same, the batch added up in slabs before what is left is summed by a product with ones.

    A sum that is fused with its products runs one number at a time; whole pictures added up do not.
    """
    x, g = pad(_wide(x, c.multiplier), c.padding), _float32(g)
    pictures, gradients = parts(x, SLABS), parts(g, SLABS)
    taps = []
    for _, at in positions(c.out, c.stride):
        seen = (window(slab, at, c.kernel, c.rhs_dilation) for slab in pictures)
        added = sum(a * b for a, b in zip(seen, gradients, strict=True)).reshape(-1, g.shape[-1])
        taps.append(product(jnp.ones((1, len(added)), g.dtype), added, (1, 0), c))
    return jnp.stack(taps).reshape(*c.out, 1, -1)


def _by_pixel(
    c: Convolution, term: Callable[[int, int, int, int], jax.Array]
) -> list[list[jax.Array | None]]:
    """For each result the sum of its terms, of (pixel's row, column, tap's row, column); None of none."""
    found: list[list[jax.Array | None]] = [[None] * c.out[1] for _ in range(c.out[0])]
    for row, k, i in meetings(c, 0):
        for column, m, j in meetings(c, 1):
            so_far, value = found[row][column], term(i, j, k, m)
            found[row][column] = value if so_far is None else so_far + value
    return found


def _alike(x: jax.Array, w: jax.Array, c: Convolution) -> tuple[jax.Array, jax.Array]:
    """As many features as weights a tap, in float32 at least: [N, H, W, C], [height, width, 1, 1, 1, C]."""
    x = _wide(x, c.multiplier)
    inputs, outputs = c.group_features, c.out_features // c.feature_groups
    w = _float32(w).reshape(*c.kernel, inputs, c.feature_groups, outputs)
    return x, jnp.swapaxes(w, 2, 3).reshape(*c.kernel, 1, 1, 1, -1)


def _gathered(y: jax.Array, c: Convolution) -> jax.Array:
    """The sum over the inputs of a group."""
    if c.group_features == 1:
        return y
    return y.reshape(*y.shape[:-1], c.out_features, c.group_features).sum(-1)


def _wide(x: jax.Array, times: int) -> jax.Array:
    """Each feature as often as it has results."""
    x = _float32(x)
    return x if times == 1 else jnp.repeat(x, times, axis=-1)


def _float32(x: jax.Array) -> jax.Array:
    return x.astype(sums(x.dtype))
