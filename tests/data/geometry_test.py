"""Crops, flips and shifts against slow NumPy versions: the law of what is drawn, and what is done with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.data.geometry import random_flip, random_resized_crop, random_shift

KEYS = jax.random.split(jax.random.key(0), 4000)


def picture(height=6, width=9, channels=3):
    return jnp.asarray(np.random.default_rng(0).random((height, width, channels)), jnp.float32)


def many(view, image):
    """The view under every key."""
    return jax.jit(jax.vmap(view, (0, None)))(KEYS, image)


def torchvision_box(rng, height, width, area, ratio):
    """Corner and extent as torchvision's RandomResizedCrop draws them, without rounding to pixels."""
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = np.sqrt(target * aspect), np.sqrt(target / aspect)
        if w <= width and h <= height:
            return rng.uniform(0, height - h), rng.uniform(0, width - w), h, w
    aspect = np.clip(width / height, *ratio)
    h, w = min(height, width / aspect), min(width, height * aspect)
    return (height - h) / 2, (width - w) / 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "area", "ratio"),
    [
        (32, 32, (0.2, 1.0), (3 / 4, 4 / 3)),
        (50, 20, (0.08, 1.0), (3 / 4, 4 / 3)),
        (8, 8, (0.6, 1), (1, 2)),
    ],
)
def test_boxes_follow_torchvisions_law(height, width, area, ratio):
    view = random_resized_crop(area, ratio)
    corner, extent = jax.jit(jax.vmap(lambda key: view.box(key, height, width)))(KEYS)
    drawn = np.concatenate([corner, extent], axis=1)
    rng = np.random.default_rng(1)
    reference = np.array([torchvision_box(rng, height, width, area, ratio) for _ in KEYS])
    assert np.all(drawn >= 0)
    assert np.all(drawn[:, :2] + drawn[:, 2:] <= np.array([height, width]) * (1 + 1e-6))
    for statistic in (
        lambda box: box[:, 2] * box[:, 3] / (height * width),
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0] / height,
        lambda box: box[:, 1] / width,
    ):
        own, other = np.sort(statistic(drawn)), np.sort(statistic(reference))
        # Two samples of one law: their quantiles differ by more than this once in a thousand.
        points = np.linspace(0, 1, 201)
        gap = np.abs(np.searchsorted(own, np.quantile(other, points)) / len(own) - points)
        assert gap.max() < 0.05


def test_where_no_box_fits_the_largest_central_one_of_an_allowed_ratio_is_taken():
    view = random_resized_crop(area=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    corner, extent = view.box(jax.random.key(0), 30, 90)
    np.testing.assert_allclose(extent, [30, 40], rtol=1e-6)
    np.testing.assert_allclose(corner, [0, 25], rtol=1e-6)


def bilinear(image, corner, extent, out):
    """Every result pixel's centre, put into the box and read between the four pixels around it."""
    height, width = image.shape[:2]
    result = np.zeros((*out, image.shape[2]))
    for i in range(out[0]):
        for j in range(out[1]):
            y = np.clip(corner[0] + (i + 0.5) * extent[0] / out[0] - 0.5, 0, height - 1)
            x = np.clip(corner[1] + (j + 0.5) * extent[1] / out[1] - 0.5, 0, width - 1)
            top, left = int(min(y, height - 2)), int(min(x, width - 2))
            b, r = y - top, x - left
            result[i, j] = (1 - b) * ((1 - r) * image[top, left] + r * image[top, left + 1])
            result[i, j] += b * ((1 - r) * image[top + 1, left] + r * image[top + 1, left + 1])
    return result


@pytest.mark.parametrize("size", [None, 5, 12])
def test_crop_reads_the_box_linearly(size):
    view, image = random_resized_crop(size=size), picture()
    out = (6, 9) if size is None else (size, size)
    keys = KEYS[:8]
    crops, boxes = jax.jit(
        lambda: (
            jax.vmap(view, (0, None))(keys, image),
            jax.vmap(lambda k: view.box(k, 6, 9))(keys),
        )
    )()
    for crop, corner, extent in zip(crops, *np.float64(boxes), strict=True):
        expected = bilinear(np.asarray(image, np.float64), corner, extent, out)
        np.testing.assert_allclose(crop, expected, atol=2e-6)


def test_flip_mirrors_left_and_right_half_of_the_time():
    image = picture()
    results = np.asarray(many(random_flip(), image))
    flipped = np.all(results == np.asarray(image)[:, ::-1], axis=(1, 2, 3))
    kept = np.all(results == np.asarray(image), axis=(1, 2, 3))
    assert np.all(flipped ^ kept)
    assert abs(flipped.mean() - 0.5) < 0.03  # four standard deviations
    np.testing.assert_array_equal(random_flip(0.0)(KEYS[0], image), image)
    np.testing.assert_array_equal(random_flip(1.0)(KEYS[0], image), image[:, ::-1])


@pytest.mark.parametrize("fill", ["edge", "zero"])
def test_shift_takes_every_offset_alike(fill):
    image, pixels = picture(5, 5, 1), 2
    results = np.asarray(many(random_shift(pixels, fill), image))
    mode = {"edge": "edge", "zero": "constant"}[fill]
    padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)), mode=mode)
    counts = [
        np.sum(np.all(results == padded[i : i + 5, j : j + 5], axis=(1, 2, 3)))
        for i in range(5)
        for j in range(5)
    ]
    assert sum(counts) == len(KEYS)  # each result is one of the 25 moves
    assert np.abs(np.array(counts) - 160).max() < 5 * np.sqrt(160)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_resized_crop(area=(0, 1)), r"area=\(0, 1\)"),
        (lambda: random_resized_crop(area=(0.5, 1.1)), "area="),
        (lambda: random_resized_crop(ratio=(2, 1)), r"ratio=\(2, 1\)"),
        (lambda: random_resized_crop(ratio=(1, float("inf"))), r"ratio=\(1, inf\)"),
        (lambda: random_resized_crop(ratio=(float("nan"), 1)), r"ratio=\(nan, 1\)"),
        (lambda: random_resized_crop(size=0), "size=0"),
        (lambda: random_flip(1.5), "p=1.5"),
        (lambda: random_shift(-1), "pixels=-1"),
        (lambda: random_shift(1, "white"), "'white', expected 'edge' or 'zero'"),
    ],
)
def test_impossible_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
