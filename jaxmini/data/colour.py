"""Views that change values: colour jitter, grey, blur and noise, one example at a time.

Pictures stay in 0..1. ``adjust_*`` and ``blur`` are the formulas; the views draw their factors.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.state import Array

# ITU-R BT.601 luma, and the NTSC colour axes I and Q (rows of zero sum: grey has no hue).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
TO_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float64)
FROM_YIQ = np.linalg.inv(TO_YIQ)


@dataclasses.dataclass(frozen=True)
class color_jitter:
    """Random brightness, contrast, saturation and hue, in this order, with probability ``p``.

    The first three are factors, uniform in [max(0, 1 - x), 1 + x]; hue is a turn of the colour
    circle, uniform in [-x, x] of a full turn. Grey pictures (one channel) have only the first two.
    Unlike torchvision's, the order is fixed, and hue turns YIQ's I-Q plane instead of HSV's H.

    Source: Chen et al., "A Simple Framework for Contrastive Learning" (2020), appendix A.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    p: float = 0.8

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"color_jitter: {name}={getattr(self, name)}, expected 0 or more")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"color_jitter: hue={self.hue}, expected 0..0.5 of a full turn")
        _check_probability("color_jitter", self.p)

    def __call__(self, key: Array, image: Array) -> Array:
        (brightness, contrast, saturation, turn), used = self.draw(key)
        changed = adjust_contrast(adjust_brightness(image, brightness), contrast)
        if image.shape[-1] == 3:
            changed = adjust_hue(adjust_saturation(changed, saturation), turn)
        return jnp.where(used, changed, image)

    def draw(self, key: Array) -> tuple[Array, Array]:
        """Brightness, contrast, saturation and hue, float32 [4]; whether they are used, bool []."""
        width = jnp.array([self.brightness, self.contrast, self.saturation, self.hue], jnp.float32)
        centre = jnp.array([1, 1, 1, 0], jnp.float32)
        low = jnp.maximum(centre - width, jnp.array([0, 0, 0, -1], jnp.float32))
        unit = jax.random.uniform(key, (5,))  # one draw for all: each costs time to compile
        return low + (centre + width - low) * unit[:4], unit[4] < self.p


@dataclasses.dataclass(frozen=True)
class random_grayscale:
    """Colour removed with probability ``p``; grey pictures stay as they are."""

    p: float = 0.2

    def __post_init__(self) -> None:
        _check_probability("random_grayscale", self.p)

    def __call__(self, key: Array, image: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, self.p), grey(image), image)


@dataclasses.dataclass(frozen=True)
class gaussian_blur:
    """A Gaussian blur with probability ``p``; borders are repeated.

    The kernel is about a tenth of the picture wide, odd and at least 3: 3 below 60 px, 23 at 224.

    Attributes:
        sigma: range of the kernel's standard deviation in pixels, uniform.
        p: probability.

    Source: Chen et al., "A Simple Framework for Contrastive Learning" (2020), appendix A.
    """

    sigma: tuple[float, float] = (0.1, 2.0)
    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma[0] <= self.sigma[1] < float("inf"):
            raise ValueError(f"gaussian_blur: sigma={self.sigma}, expected 0 < low <= high")
        _check_probability("gaussian_blur", self.p)

    def __call__(self, key: Array, image: Array) -> Array:
        coin, unit = jax.random.uniform(key, (2,))
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * unit
        radius = max(1, min(image.shape[:2]) // 20)
        return jnp.where(coin < self.p, blur(image, sigma, radius), image)


@dataclasses.dataclass(frozen=True)
class gaussian_noise:
    """Normal noise of standard deviation ``sigma`` added to every value, clipped to 0..1."""

    sigma: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < float("inf"):
            raise ValueError(f"gaussian_noise: sigma={self.sigma}, expected 0 or more")

    def __call__(self, key: Array, image: Array) -> Array:
        return _clip(image + self.sigma * jax.random.normal(key, image.shape))


def grey(image: Array) -> Array:
    """Luma of a colour picture in every channel; a picture of one channel itself. [H, W, C]."""
    if image.shape[-1] == 1:
        return image
    return jnp.broadcast_to((image @ jnp.asarray(LUMA))[..., None], image.shape)


def adjust_brightness(image: Array, factor: Array) -> Array:
    """``factor * image``, clipped. [H, W, C]."""
    return _clip(factor * image)


def adjust_contrast(image: Array, factor: Array) -> Array:
    """Values moved away from (or to) the picture's mean luma by ``factor``, clipped. [H, W, C]."""
    return _blend(image, jnp.mean(grey(image)), factor)


def adjust_saturation(image: Array, factor: Array) -> Array:
    """Values moved away from (or to) the pixel's luma by ``factor``, clipped. [H, W, 3]."""
    return _blend(image, grey(image), factor)


def adjust_hue(image: Array, turn: Array) -> Array:
    """Colours turned in the I-Q plane of YIQ by ``turn`` of a full circle, clipped. [H, W, 3]."""
    angle = 2 * np.pi * turn
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    one, zero = jnp.ones_like(cos), jnp.zeros_like(cos)
    rotation = jnp.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos]).reshape(3, 3)
    matrix = jnp.float32(FROM_YIQ) @ rotation @ jnp.float32(TO_YIQ)
    return _clip(image @ matrix.T)


def blur(image: Array, sigma: Array, radius: int) -> Array:
    """Convolution with a Gaussian cut at ``radius``, of sum 1; borders repeated. [H, W, C]."""
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    weights = jax.nn.softmax(-0.5 * jnp.square(offsets / sigma))
    for axis in (0, 1):
        border = [(radius, radius) if axis == other else (0, 0) for other in range(3)]
        padded = jnp.pad(image, border, mode="edge")
        size = image.shape[axis]
        # Shifted sums: a depthwise convolution is many times slower on CPU.
        image = sum(
            weights[tap] * jax.lax.slice_in_dim(padded, tap, tap + size, axis=axis)
            for tap in range(2 * radius + 1)
        )
    return image


def _blend(image: Array, other: Array, factor: Array) -> Array:
    return _clip(other + factor * (image - other))


def _clip(image: Array) -> Array:
    return jnp.clip(image, 0.0, 1.0)


def _check_probability(view: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{view}: p={p}, expected a probability, 0..1")
