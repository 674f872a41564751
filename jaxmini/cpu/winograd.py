"""Winograd: a 3x3 convolution at stride 1 in four products a pixel instead of nine.

F(2x2, 3x3) of Lavin & Gray (2016), "Fast Algorithms for Convolutional Neural Networks", section 4.1: tiles of
4x4 pixels that overlap by two, the kernel carried into the same space, sixteen matrix products, and back to
2x2 results. In float32 its error is of the size of a plain sum's.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.cpu.convolution import Convolution, Pair
from jaxmini.cpu.dense import product
from jaxmini.cpu.window import pad, parts, room, window

Grid = list[list[jax.Array]]

# The paper's G, both ways at once: 4x4 of a tile, 3x3 of the kernel.
_G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
_G2 = np.kron(_G, _G)

# Products of features and pixels from which the time saved outweighs a longer compilation.
WORTH = 1 << 26
# Numbers of the operands that are worked on at a time: tiles are four times as large, and should stay in the
# processor's cache; the products of half as many run on one thread. A filter gradient writes all its products
# for every part, so it takes larger ones.
PART, FILTER_PART = 1 << 19, 1 << 20


def forward(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """The convolution; also an input gradient at stride 1, whose kernel comes turned over."""
    kernels = _kernels(x, w).reshape(4, 4, c.features, c.out_features)
    pictures = parts(x, _count(x, c.out_features, PART))

    def fill(part: jax.Array, y: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(y, _results(pictures[part], kernels, c), part, 0)

    shape = *pictures.shape[:2], *c.out, c.out_features
    y = lax.fori_loop(0, len(pictures), fill, room(x, shape))
    return y.reshape(-1, *c.out, c.out_features)[: c.batch]


def filter_gradient(x: jax.Array, g: jax.Array, c: Convolution) -> jax.Array:
    """The gradient to the kernel: the transpose of each of the three steps."""
    # In a loop nothing is done before the gradients are there: tiles would wait in memory for them.
    count = min(len(x), max(2, _count(x, c.out_features, FILTER_PART)))
    pictures, gradients = parts(x, count), parts(g, count)

    def add(part: jax.Array, total: jax.Array) -> jax.Array:
        before = jnp.where(part == 0, 0, total)
        return before + _products(pictures[part], gradients[part], c)

    total = lax.fori_loop(0, count, add, room(g, (16, c.batch, c.out_features)))
    return (_constant(_G2, g).T @ total.reshape(16, -1)).reshape(3, 3, c.batch, c.out_features)


def _kernels(x: jax.Array, w: jax.Array) -> jax.Array:
    """The kernel in the tiles' space, [16, C * D]; only once the pictures are there, as ``room`` says."""
    taps, matrix = w.reshape(9, -1), _constant(_G2, w).reshape(4, 4, 9)

    def fill(row: jax.Array, kernels: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(kernels, matrix[row] @ taps, row, 0)

    kernels = lax.fori_loop(0, 4, fill, room(x, (4, 4, taps.shape[1])))
    return kernels.reshape(16, -1)


def _results(x: jax.Array, kernels: jax.Array, c: Convolution) -> jax.Array:
    """[n, H, W, C] and kernels [4, 4, C, D] -> [n, *c.out, D]."""
    tiles = _each_way(_tiles(x, c.padding, c.out), _pixels_in)
    (n, height, width, _), sides = tiles[0][0].shape, range(4)
    products = [
        [product(tiles[i][j].reshape(-1, c.features), kernels[i, j], (1, 0), c) for j in sides]
        for i in sides
    ]
    found = _each_way(products, _results_out)
    found = [[part.reshape(n, height, width, -1) for part in row] for row in found]
    y = jnp.stack([jnp.stack(row, 3) for row in found], 2)
    return y.reshape(n, 2 * height, 2 * width, -1)[:, : c.out[0], : c.out[1]]


def _products(x: jax.Array, g: jax.Array, c: Convolution) -> jax.Array:
    """Pictures [n, H, W, C] and gradients [n, *c.kernel, D] -> [16, C, D], still in the tiles' space."""
    tiles = _each_way(_tiles(x, c.padding, c.kernel), _pixels_in)
    size = tiles[0][0].shape[1:3]
    g = pad(g, tuple((0, 2 * most - count) for most, count in zip(size, c.kernel, strict=True)))
    results = [[window(g, (i, j), size, (2, 2)) for j in range(2)] for i in range(2)]
    results = _each_way(results, _results_in)
    both = zip(itertools.chain(*tiles), itertools.chain(*results), strict=True)
    found = [
        product(tile.reshape(-1, c.batch), result.reshape(-1, c.out_features), (0, 0), c)
        for tile, result in both
    ]
    return jnp.stack(found)


def _count(x: jax.Array, out_features: int, most: int) -> int:
    """Parts of a batch that each hold, and give, ``most`` numbers or little more; at most one a picture."""
    n, height, width, features = x.shape
    return min(n, math.ceil(n * height * width * max(features, out_features) / most))


def _constant(matrix: np.ndarray, w: jax.Array) -> jax.Array:
    return jnp.asarray(matrix, w.dtype)


def _tiles(x: jax.Array, padding: tuple[Pair, Pair], out: Pair) -> Grid:
    """The 4x4 pixels of every tile, each [N, tiles down, tiles along, C]."""
    height, width = (-(-extent // 2) for extent in out)
    (top, _), (left, _) = padding
    bottom = 2 * height + 2 - x.shape[1] - top
    right = 2 * width + 2 - x.shape[2] - left
    x = pad(x, ((top, bottom), (left, right)))
    return [[window(x, (i, j), (height, width), (2, 2)) for j in range(4)] for i in range(4)]


def _each_way(grid: Grid, transform: Callable[[Sequence[jax.Array]], list[jax.Array]]) -> Grid:
    """A transform along the columns of a grid, then along its rows."""
    rows = [transform(row) for row in grid]
    columns = [transform(column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


# The paper's B^T and A^T, and the transpose of A^T.


def _pixels_in(d: Sequence[jax.Array]) -> list[jax.Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _results_out(m: Sequence[jax.Array]) -> list[jax.Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _results_in(y: Sequence[jax.Array]) -> list[jax.Array]:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]
