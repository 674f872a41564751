"""Colour, blur and noise against slow NumPy versions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxmini.data import colour
from jaxmini.data.colour import color_jitter, gaussian_blur, gaussian_noise, random_grayscale

KEYS = jax.random.split(jax.random.key(3), 4000)
WEIGHTS = np.array([0.299, 0.587, 0.114])


def picture(channels=3, height=7, width=5):
    values = np.random.default_rng(0).random((height, width, channels))
    return jnp.asarray(values, jnp.float32)


def many(view, image, keys=KEYS):
    """The view under every key."""
    return np.asarray(jax.jit(jax.vmap(view, (0, None)))(keys, image))


def luma(image):
    return image if image.shape[-1] == 1 else (image @ WEIGHTS)[..., None]


def turn_hue(image, turn):
    """Each pixel's luma stays, its I-Q vector turns."""
    i = image @ [0.5959, -0.2746, -0.3213]
    q = image @ [0.2115, -0.5227, 0.3112]
    vector = (i + 1j * q) * np.exp(2j * np.pi * turn)
    yiq = np.stack([image @ WEIGHTS, vector.real, vector.imag], axis=-1)
    basis = np.array([WEIGHTS, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    return np.linalg.solve(basis, yiq[..., None])[..., 0]


def jitter(image, brightness, contrast, saturation, turn):
    image = np.clip(brightness * image, 0, 1)
    mean = luma(image).mean()
    image = np.clip(mean + contrast * (image - mean), 0, 1)
    if image.shape[-1] == 3:
        image = np.clip(luma(image) + saturation * (image - luma(image)), 0, 1)
        image = np.clip(turn_hue(image, turn), 0, 1)
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_its_formula_at_the_factors_it_draws(channels):
    view, image = color_jitter(0.6, 0.7, 0.8, 0.3, p=1.0), picture(channels)
    drawn, _ = jax.jit(jax.vmap(view.draw))(KEYS[:10])
    for result, factors in zip(many(view, image, KEYS[:10]), np.float64(drawn), strict=True):
        expected = jitter(np.asarray(image, np.float64), *factors)
        np.testing.assert_allclose(result, expected, atol=3e-6)


def test_jitter_draws_uniformly_in_its_ranges_and_keeps_a_picture_now_and_then():
    view, image = color_jitter(0.4, 1.5, 0.2, 0.1, p=0.8), picture()
    drawn, used = (np.asarray(part) for part in jax.jit(jax.vmap(view.draw))(KEYS))
    low, high = np.array([0.6, 0.0, 0.8, -0.1]), np.array([1.4, 2.5, 1.2, 0.1])
    spread = (np.sort(drawn, axis=0) - low) / (high - low)
    uniform = (np.arange(len(drawn)) + 0.5)[:, None] / len(drawn)
    assert np.abs(spread - uniform).max() < 0.035  # Kolmogorov-Smirnov, once in ten thousand
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.07
    assert abs(used.mean() - 0.8) < 0.026
    kept = np.all(many(view, image) == np.asarray(image), axis=(1, 2, 3))
    np.testing.assert_array_equal(kept, ~used)


def test_factors_of_one_and_no_turn_change_nothing():
    image = picture()
    for adjust, factor in (
        (colour.adjust_brightness, 1.0),
        (colour.adjust_contrast, 1.0),
        (colour.adjust_saturation, 1.0),
        (colour.adjust_hue, 0.0),
        (colour.adjust_hue, 1.0),
    ):
        np.testing.assert_allclose(adjust(image, jnp.float32(factor)), image, atol=1e-6)


def test_grey_has_no_hue():
    grey = colour.grey(picture())
    np.testing.assert_allclose(colour.adjust_hue(grey, jnp.float32(0.3)), grey, atol=1e-6)


def test_grayscale_is_luma_in_every_channel_a_fifth_of_the_time():
    image = picture()
    results = many(random_grayscale(0.2), image)
    kept = np.all(results == np.asarray(image), axis=(1, 2, 3))
    expected = np.broadcast_to(luma(np.asarray(image, np.float64)), image.shape)
    np.testing.assert_allclose(
        results[~kept], np.broadcast_to(expected, results[~kept].shape), atol=1e-6
    )
    assert abs(kept.mean() - 0.8) < 0.026
    single = picture(1)
    np.testing.assert_array_equal(random_grayscale(1.0)(KEYS[0], single), single)


@pytest.mark.parametrize(("sigma", "radius"), [(0.1, 1), (0.7, 1), (2.0, 3)])
def test_blur_is_scipys_convolution(sigma, radius):
    image = picture(3, 11, 8)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    expected = np.asarray(image, np.float64)
    for axis in (0, 1):
        expected = ndimage.convolve1d(expected, kernel / kernel.sum(), axis=axis, mode="nearest")
    blurred = jax.jit(colour.blur, static_argnums=2)(image, jnp.float32(sigma), radius)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


@pytest.mark.parametrize(("height", "taps"), [(8, 3), (32, 3), (224, 23)])
def test_blur_reaches_a_tenth_of_the_picture(height, taps):
    point = jnp.zeros((height, height, 1)).at[height // 2, height // 2].set(1.0)
    spread = jax.jit(gaussian_blur((2.0, 2.0), p=1.0))(KEYS[0], point)
    assert np.count_nonzero(np.asarray(spread).sum(axis=1)) == taps


def test_blur_touches_half_of_the_pictures_more_with_a_larger_sigma():
    image = picture()
    results = many(gaussian_blur(), image, KEYS[:1000])
    kept = np.all(results == np.asarray(image), axis=(1, 2, 3))
    assert abs(kept.mean() - 0.5) < 0.064
    change = [np.abs(colour.blur(image, jnp.float32(s), 1) - image).mean() for s in (0.1, 0.5, 2.0)]
    assert change[0] < change[1] < change[2]


def test_noise_has_its_deviation_and_stays_a_picture():
    middle = jnp.full((40, 40, 3), 0.5)
    noise = np.asarray(gaussian_noise(0.1)(KEYS[0], middle)) - 0.5
    assert abs(noise.std() - 0.1) < 0.005
    assert abs(noise.mean()) < 0.006
    black = np.asarray(gaussian_noise(0.1)(KEYS[0], jnp.zeros((40, 40, 1))))
    assert black.min() == 0
    assert abs((black > 0).mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: color_jitter(brightness=-1), "brightness=-1"),
        (lambda: color_jitter(brightness=float("inf")), "brightness=inf, expected 0 or more"),
        (lambda: color_jitter(contrast=float("nan")), "contrast=nan"),
        (lambda: color_jitter(hue=0.6), "hue=0.6"),
        (lambda: color_jitter(hue=float("nan")), "hue=nan"),
        (lambda: color_jitter(p=2), "color_jitter: p=2"),
        (lambda: random_grayscale(-0.1), "random_grayscale: p=-0.1"),
        (lambda: gaussian_blur((0.0, 1.0)), r"sigma=\(0.0, 1.0\)"),
        (lambda: gaussian_blur((1.0, float("inf"))), r"sigma=\(1.0, inf\)"),
        (lambda: gaussian_blur(p=1.1), "gaussian_blur: p=1.1"),
        (lambda: gaussian_noise(float("inf")), "sigma=inf"),
        (lambda: gaussian_noise(float("nan")), "sigma=nan"),
        (lambda: gaussian_noise(-0.1), "sigma=-0.1"),
    ],
)
def test_impossible_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
