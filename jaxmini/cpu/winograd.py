"""Winograd: a 3x3 convolution at stride 1 in two and a quarter products a pixel, or four, instead of nine.

F(4x4, 3x3) and, on small maps, F(2x2, 3x3) of Lavin & Gray (2016), "Fast Algorithms for Convolutional
Neural Networks", section 4.1: tiles of pixels that overlap by two, the kernel carried into the same space, a
matrix product for each place of a tile, and back to results. In float32 the error of the small tiles is of
the size of a plain sum's, that of the large ones some times as large.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.cpu.convolution import Convolution, Pair
from jaxmini.cpu.dense import product
from jaxmini.cpu.window import pad, parts, room, window


@dataclasses.dataclass(frozen=True, eq=False)
class Tiles:
    """The matrices of F(m, 3), for a row; both ways are the row's way twice.

    Attributes:
        pixels: to the tile's space, the paper's B^T, [m + 2, m + 2].
        kernel: G, [m + 2, 3].
        results: from the tile's space, A^T, [m, m + 2].
    """

    pixels: np.ndarray
    kernel: np.ndarray
    results: np.ndarray

    @property
    def size(self) -> int:
        return len(self.pixels)

    @property
    def step(self) -> int:
        return len(self.results)


def toom_cook(*points: float) -> Tiles:
    """Tiles of the values of polynomials at infinity and at points, of which there are m and one more.

    After Toom (1963) and Cook (1966): the results are the product of two polynomials, turned about.
    """
    others = [[other for other in points if other != point] for point in points]
    scale = [math.prod(p - q for q in row) for p, row in zip(points, others, strict=True)]
    powers = np.vander(points, len(points), increasing=True)
    infinity = np.eye(len(points) + 1)[-1:]
    pixels = [*(np.append(np.poly(row)[::-1], 0) for row in others), np.poly(points)[::-1]]
    kernel = np.concatenate([powers[:, :3] / np.array(scale)[:, None], infinity[:, -3:]])
    results = np.concatenate([powers[:, :-1].T, infinity[:, 2:].T], 1)
    return Tiles(np.stack(pixels), kernel, results)


# The paper's points for two results, and for four such as have the least error of those tried: the paper's,
# 1 and -1 and 2 and -2, have twice as much. Maps of seven pixels and less are mostly border to large tiles,
# whose 36 products read more of the kernel than of them.
TWO, FOUR = toom_cook(0, 1, -1), toom_cook(0, 0.75, -0.75, 1.5, -1.5)
SMALL = 7

# Products of features and pixels from which the time saved outweighs a longer compilation.
WORTH = 1 << 26
# Numbers of the operands that are worked on at a time: tiles are up to four times as large, and should stay
# in the processor's cache; the products of fewer run on one thread.
PART = 1 << 20


def forward(x: jax.Array, w: jax.Array, c: Convolution) -> jax.Array:
    """The convolution; also an input gradient at stride 1, whose kernel comes turned over."""
    tiles = _tiles_for(c.out)
    kernels = _kernels(x, w, tiles)
    pictures = parts(x, _part_count(x, c.out_features))

    def fill(part: jax.Array, y: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(
            y, _results(pictures[part], kernels, c, tiles), part, 0
        )

    shape = *pictures.shape[:2], *c.out, c.out_features
    y = lax.fori_loop(0, len(pictures), fill, room(x, shape))
    return y.reshape(-1, *c.out, c.out_features)[: c.batch]


def filter_gradient(x: jax.Array, g: jax.Array, c: Convolution) -> jax.Array:
    """The gradient to the kernel: the transpose of each of the three steps."""
    tiles = _tiles_for(c.kernel)
    # In a loop nothing is done before the gradients are there: tiles would wait in memory for them.
    count = min(len(x), max(2, _part_count(x, c.out_features)))
    pictures, gradients = parts(x, count), parts(g, count)

    def add(part: jax.Array, total: jax.Array) -> jax.Array:
        before = jnp.where(part == 0, 0, total)
        return before + _products(pictures[part], gradients[part], c, tiles)

    total = lax.fori_loop(0, count, add, room(g, (tiles.size**2, c.batch, c.out_features)))
    gradient = _of_squares(tiles.kernel, g).T @ total.reshape(tiles.size**2, -1)
    return gradient.reshape(3, 3, c.batch, c.out_features)


def _tiles_for(out: Pair) -> Tiles:
    return TWO if min(out) <= SMALL else FOUR


def _kernels(x: jax.Array, w: jax.Array, tiles: Tiles) -> jax.Array:
    """The kernel in the tiles' space, [size, size, C, D]; only once the pictures are there (``room``)."""
    size, taps = tiles.size, w.reshape(9, -1)
    matrix = _of_squares(tiles.kernel, w).reshape(size, size, 9)

    def fill(row: jax.Array, kernels: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(kernels, matrix[row] @ taps, row, 0)

    kernels = lax.fori_loop(0, size, fill, room(x, (size, size, taps.shape[1])))
    return kernels.reshape(size, size, *w.shape[2:])


def _of_squares(matrix: np.ndarray, like: jax.Array) -> jax.Array:
    """What does the same to the columns, then the rows, of a square whose numbers stand in a row."""
    return jnp.asarray(np.kron(matrix, matrix), like.dtype)


def _results(x: jax.Array, kernels: jax.Array, c: Convolution, tiles: Tiles) -> jax.Array:
    """[n, H, W, C] and kernels [size, size, C, D] -> [n, *c.out, D]."""
    height, width = count = _tile_count(c.out, tiles)
    pixels = _both_ways(tiles.pixels, x, c.padding, count, tiles.step)

    def row(i: int) -> jax.Array:
        """[n, tiles down, results along, D]."""
        products = [
            product(tile.reshape(-1, c.features), kernels[i, j], (1, 0), c)
            for j, tile in enumerate(pixels[i])
        ]
        results = jnp.stack(_sums(tiles.results, products), 1)
        return results.reshape(len(x), height, -1, c.out_features)

    y = jnp.stack(_sums(tiles.results, [row(i) for i in range(tiles.size)]), 2)
    y = y.reshape(len(x), tiles.step * height, tiles.step * width, -1)
    return y[:, : c.out[0], : c.out[1]]


def _products(x: jax.Array, g: jax.Array, c: Convolution, tiles: Tiles) -> jax.Array:
    """Pictures [n, H, W, C], gradients [n, *c.kernel, D] -> [size * size, C, D], in the tiles' space."""
    count = _tile_count(c.kernel, tiles)
    pixels = _both_ways(tiles.pixels, x, c.padding, count, tiles.step)
    results = _both_ways(tiles.results.T, g, ((0, 0), (0, 0)), count, tiles.step)
    both = zip(itertools.chain(*pixels), itertools.chain(*results), strict=True)
    found = [
        product(pixel.reshape(-1, c.batch), result.reshape(-1, c.out_features), (0, 0), c)
        for pixel, result in both
    ]
    return jnp.stack(found)


def _part_count(x: jax.Array, out_features: int) -> int:
    """Parts of a batch that each hold, and give, ``PART`` numbers or little more; at most one a picture."""
    n, height, width, features = x.shape
    return min(n, math.ceil(n * height * width * max(features, out_features) / PART))


def _tile_count(out: Pair, tiles: Tiles) -> Pair:
    """Tiles down and along that hold all results."""
    return tuple(-(-extent // tiles.step) for extent in out)


def _both_ways(
    matrix: np.ndarray, x: jax.Array, padding: tuple[Pair, Pair], count: Pair, step: int
) -> list[list[jax.Array]]:
    """What a matrix makes of every tile's columns, then rows: each place's [N, tiles down, tiles along, C].

    Args:
        matrix: to the tiles' space, of as many pixels as it has columns.
        x: [N, H, W, C].
        padding: zeros before it; there are as many behind as the tiles need.
        count: tiles down and along.
        step: pixels from one to the next.
    """
    places = range(matrix.shape[1])
    (top, _), (left, _) = padding
    bottom, right = (
        step * (tiles - 1) + len(places) - extent - before
        for tiles, extent, before in zip(count, x.shape[1:3], (top, left), strict=True)
    )
    x = pad(x, ((top, bottom), (0, 0)))
    columns = [window(x, (i, 0), (count[0], x.shape[2]), (step, 1)) for i in places]
    # XLA writes down what it pads, be it by one that nobody reads; else each place adds up its columns again.
    rows = [pad(row, ((0, 0), (left, right + 1))) for row in _sums(matrix, columns)]
    return [_sums(matrix, [window(row, (0, j), count, (1, step)) for j in places]) for row in rows]


def _sums(matrix: np.ndarray, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """A matrix times a column of arrays, without what it multiplies by zero."""
    return [
        sum(float(factor) * array for factor, array in zip(row, arrays, strict=True) if factor)
        for row in matrix
    ]
