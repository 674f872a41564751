"""Views that move pixels: crops, flips and shifts, one example at a time."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.state import Array

# Tries for a box that fits: as many as torchvision's loop makes, drawn at once.
CANDIDATES = 10


@dataclasses.dataclass(frozen=True)
class random_resized_crop:
    """A box of random area and shape, resized to the picture's size (linear, no antialiasing).

    Ten boxes are drawn, area uniform and log of the ratio uniform; the first that fits is taken, at
    a uniform place. If none fits it is the largest central box of an allowed ratio. This is
    torchvision's law, but for the edges, which are not rounded to whole pixels: in an 8-pixel
    picture that would leave only a few different boxes.

    Attributes:
        area: of the box, as a part of the picture's, 0 < low <= high <= 1.
        ratio: width : height of the box.
        size: height and width of the result; None = those of the picture.

    Source: Szegedy et al., "Going Deeper with Convolutions" (2015), section 6.
    """

    area: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(
                f"random_resized_crop: area={self.area}, expected 0 < low <= high <= 1"
            )
        if not 0 < self.ratio[0] <= self.ratio[1] < float("inf"):
            raise ValueError(f"random_resized_crop: ratio={self.ratio}, expected 0 < low <= high")
        if self.size is not None and self.size < 1:
            raise ValueError(f"random_resized_crop: size={self.size}, expected at least 1 pixel")

    def __call__(self, key: Array, image: Array) -> Array:
        height, width, channels = image.shape
        out = (height, width) if self.size is None else (self.size, self.size)
        corner, extent = self.box(key, height, width)
        scale = jnp.array(out, jnp.float32) / extent
        return jax.image.scale_and_translate(
            image, (*out, channels), (0, 1), scale, -corner * scale, "linear", antialias=False
        )

    def box(self, key: Array, height: int, width: int) -> tuple[Array, Array]:
        """What ``key`` draws: the box's corner [top, left] and extent [height, width]."""
        bounds = jnp.array([height, width], jnp.float32)
        unit = jax.random.uniform(key, (2 * CANDIDATES + 2,))
        areas, ratios, place = jnp.split(unit, (CANDIDATES, 2 * CANDIDATES))
        area = _between(areas, *self.area) * height * width
        ratio = jnp.exp(_between(ratios, *np.log(self.ratio).tolist()))
        extents = jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], axis=-1)
        fits = jnp.all(extents <= bounds[None], axis=-1)
        found = jnp.any(fits)
        extent = jnp.where(found, extents[jnp.argmax(fits)], self._central(height, width))
        place = jnp.where(found, place, 0.5)
        return place * (bounds - extent), extent

    def _central(self, height: int, width: int) -> Array:
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        return jnp.array([min(height, width / ratio), min(width, height * ratio)], jnp.float32)


@dataclasses.dataclass(frozen=True)
class random_flip:
    """Left and right exchanged, with probability ``p``."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"random_flip: p={self.p}, expected a probability, 0..1")

    def __call__(self, key: Array, image: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, self.p), image[:, ::-1], image)


@dataclasses.dataclass(frozen=True)
class random_shift:
    """The picture moved by up to ``pixels`` both ways, every whole offset equally likely.

    Attributes:
        pixels: largest move, up, down, left and right.
        fill: what moves in: ``"edge"`` repeats the border, ``"zero"`` is black.
    """

    pixels: int
    fill: Literal["edge", "zero"] = "edge"

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise ValueError(f"random_shift: pixels={self.pixels}, expected 0 or more")
        if self.fill not in ("edge", "zero"):
            raise ValueError(f"random_shift: fill={self.fill!r}, expected 'edge' or 'zero'")

    def __call__(self, key: Array, image: Array) -> Array:
        border = ((self.pixels, self.pixels), (self.pixels, self.pixels), (0, 0))
        padded = jnp.pad(image, border, mode="edge" if self.fill == "edge" else "constant")
        top, left = jax.random.randint(key, (2,), 0, 2 * self.pixels + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def _between(unit: Array, low: float, high: float) -> Array:
    return low + (high - low) * unit
