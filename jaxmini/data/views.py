"""View: ``(key, image) -> image`` for one example; how views are chained, keyed and normalised.

A view of an example depends on the run's key, the view's index, the epoch and the example's id
alone: it is the same in whatever batch, device or process, and after a resume.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.data.colour import color_jitter, gaussian_blur, gaussian_noise, random_grayscale
from jaxmini.data.dataset import Split
from jaxmini.data.geometry import random_flip, random_resized_crop, random_shift
from jaxmini.state import Array

__all__ = [
    "Compose",
    "Normalization",
    "View",
    "apply_views",
    "chain",
    "color_jitter",
    "contrastive",
    "crop_and_flip",
    "gaussian_blur",
    "gaussian_noise",
    "identity",
    "measure",
    "random_flip",
    "random_grayscale",
    "random_resized_crop",
    "random_shift",
    "shift",
    "small_pictures",
]


class View(Protocol):
    """A pure function of a key and one picture, float32 [H, W, C] in 0..1, to such a picture."""

    def __call__(self, key: Array, image: Array) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Compose:
    """Views one after the other; the key of each is the key folded with its position."""

    views: tuple[View, ...]

    def __call__(self, key: Array, image: Array) -> Array:
        if not self.views:
            return image
        # One vectorised fold_in compiles in the time of one, and gives the same keys.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(self.views)))
        for position, view in enumerate(self.views):
            image = view(keys[position], image)
        return image


def chain(*views: View) -> Compose:
    """Views one after the other. Without any it is the identity."""
    for view in views:
        if not callable(view):
            raise TypeError(f"chain: got {view!r}, expected views: (key, image) -> image")
    return Compose(views)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """``(image - mean) / std`` with one mean and one std for all channels.

    The mean is moved to the nearest multiple of 1/255. An int8 file whose input grid has this
    ``scale`` and ``zero_point`` then takes the integers ``pixel - 128``: nothing is rounded between
    camera and network.

    Attributes:
        mean: of the pixels, 0..1.
        std: of the pixels, positive.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not 0 <= self.mean <= 1:
            raise ValueError(f"Normalization: mean={self.mean}, expected 0..1 (pixels / 255)")
        if not 0 < self.std < float("inf"):
            raise ValueError(f"Normalization: std={self.std}, expected a positive number")
        object.__setattr__(self, "mean", round(255 * self.mean) / 255)

    def __call__(self, image: Array) -> Array:
        """Normalised pictures, float32 [...], of uint8 pixels or of float32 values in 0..1.

        Pixels are read as the int8 file reads them: ``scale * (q - zero_point)``, q = pixel - 128.
        """
        if image.dtype == jnp.uint8:
            levels = image.astype(jnp.float32) - (self.zero_point + 128)
            return levels * jnp.float32(self.scale)
        return (image - jnp.float32(self.mean)) * jnp.float32(1 / self.std)

    @property
    def scale(self) -> float:
        """Step of the int8 input grid: one grey level."""
        return 1 / (255 * self.std)

    @property
    def zero_point(self) -> int:
        """The int8 integer of the mean, -128..127."""
        return round(255 * self.mean) - 128


def measure(split: Split) -> Normalization:
    """The normalization that gives a split's pixels mean 0 (to half a grey level) and deviation 1.

    Raises:
        ValueError: there are no pictures, or all their pixels are equal.
    """
    if not len(split):
        raise ValueError("measure: the split holds no pictures")
    counts = np.zeros(256, np.int64)
    for start in range(0, len(split), 1024):  # bincount works on a copy of eight bytes a pixel
        counts += np.bincount(split.image[start : start + 1024].ravel(), minlength=256)
    levels, weights = np.arange(256) / 255, counts / counts.sum()
    mean = float(levels @ weights)
    std = float(np.sqrt(np.square(levels - mean) @ weights))
    if std == 0:
        raise ValueError(f"measure: every pixel of the split is {round(255 * mean)}; no deviation")
    return Normalization(mean, std)


def apply_views(
    view: View,
    normalization: Normalization,
    key: Array,
    view_index: int,
    image: Array,
    ids: Array,
    epochs: Array,
) -> Array:
    """A normalised view of every picture of a batch, float32 [B, H', W', C].

    Args:
        view: of one example.
        normalization: applied after the view.
        key: of the run, a typed PRNG key.
        view_index: tells the views of one picture apart (0 and 1 in contrastive learning).
        image: uint8 [B, H, W, C].
        ids, epochs: int32 [B]; with ``key`` and ``view_index`` they decide everything random.
    """
    stream = jax.random.fold_in(key, view_index)

    def one(pixels: Array, example: Array, epoch: Array) -> Array:
        return view(jax.random.fold_in(jax.random.fold_in(stream, epoch), example), pixels)

    return normalization(jax.vmap(one)(image.astype(jnp.float32) / 255, ids, epochs))


def identity() -> Compose:
    """The picture as it is."""
    return chain()


def shift(pixels: int = 1) -> Compose:
    """Moves of up to ``pixels`` on a black ground, for small pictures such as Fashion-MNIST."""
    return chain(random_shift(pixels, fill="zero"))


def crop_and_flip(pixels: int = 4) -> Compose:
    """The standard CIFAR recipe: moves of up to ``pixels`` on a black ground, and mirroring.

    Source: He et al., "Deep Residual Learning" (2015), section 4.2.
    """
    return chain(random_shift(pixels, fill="zero"), random_flip())


def small_pictures(
    area: tuple[float, float] = (0.6, 1.0),
    jitter: float = 0.5,
    noise: float = 0.1,
    flip: float = 0.0,
) -> Compose:
    """Views for contrastive learning of 8 to 32 px pictures, grey or colour.

    Milder than for photographs: a digit cut in half is another digit, a mirrored one is none. There
    is no blur, which on so few pixels removes the content.
    """
    return chain(
        random_resized_crop(area=area),
        random_flip(flip),
        color_jitter(jitter, jitter, jitter, jitter / 5),
        random_grayscale(),
        gaussian_noise(noise),
    )


def contrastive(
    area: tuple[float, float] = (0.2, 1.0), strength: float = 1.0, blur: float = 0.5
) -> Compose:
    """SimCLR's views for colour photographs; CIFAR takes ``strength=0.5, blur=0``.

    Source: Chen et al., "A Simple Framework for Contrastive Learning" (2020), appendix A.

    Args:
        area: of the crop; 0.08 is the paper's lower end for ImageNet, 0.2 what later work takes.
        strength: of the colour jitter, 0..2.5.
        blur: its probability.
    """
    return chain(
        random_resized_crop(area=area),
        random_flip(),
        color_jitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength),
        random_grayscale(),
        gaussian_blur(p=blur),
    )
