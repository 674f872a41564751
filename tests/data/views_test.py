"""A view depends on key, index, epoch and id alone; the normalisation meets the int8 grid exactly."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmini.data import views
from jaxmini.data.dataset import Split

NORMALIZATION = views.Normalization(0.3, 0.25)
STRONG = views.chain(views.random_resized_crop(), views.color_jitter(), views.gaussian_noise())


def batch(n=16, size=8, channels=3):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (n, size, size, channels), np.uint8)
    ids = rng.permutation(1000)[:n].astype(np.int32)
    return image, ids, np.full(n, 5, np.int32)


@functools.partial(jax.jit, static_argnums=0)
def seen(view, image, ids, epochs, index=0, seed=0):
    return views.apply_views(view, NORMALIZATION, jax.random.key(seed), index, image, ids, epochs)


def test_views_do_not_depend_on_the_batch_they_are_in():
    arrays = batch()
    whole = np.asarray(seen(STRONG, *arrays))
    assert whole.dtype == np.float32
    assert whole.shape == arrays[0].shape
    order = np.random.default_rng(1).permutation(16)
    again = seen(STRONG, *(part[order] for part in arrays))
    np.testing.assert_array_equal(again, whole[order])
    pieces = [seen(STRONG, *(part[k : k + 4] for part in arrays)) for k in range(0, 16, 4)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=2e-6)


def test_views_do_not_depend_on_the_number_of_devices():
    arrays, devices = batch(), jax.devices()[:4]
    expected = np.asarray(seen(STRONG, *arrays))

    mesh = Mesh(np.array(devices), ("batch",))
    sharded = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("batch")))
    np.testing.assert_allclose(seen(STRONG, *sharded), expected, atol=2e-6)

    split = [part.reshape(4, -1, *part.shape[1:]) for part in arrays]
    mapped = jax.pmap(functools.partial(seen, STRONG), devices=devices)(*split)
    np.testing.assert_allclose(mapped.reshape(expected.shape), expected, atol=2e-6)


def test_key_index_epoch_and_id_each_change_the_view():
    image, ids, epochs = batch(1)
    view = views.gaussian_noise()
    results = [
        seen(view, image, ids, epochs),
        seen(view, image, ids + 1, epochs),
        seen(view, image, ids, epochs + 1),
        seen(view, image, ids, epochs, index=1),
        seen(view, image, ids, epochs, seed=1),
        seen(view, image, epochs, ids),
    ]
    assert len({np.asarray(each).tobytes() for each in results}) == len(results)


def test_the_key_is_folded_with_index_then_epoch_then_id():
    image, ids, epochs = batch(2)
    fold, view = jax.random.fold_in, views.gaussian_noise()
    key = fold(fold(fold(jax.random.key(0), 1), epochs[1]), ids[1])
    alone = NORMALIZATION(jax.jit(view)(key, jnp.float32(image[1]) / 255))
    np.testing.assert_allclose(seen(view, image, ids, epochs, index=1)[1], alone, atol=1e-6)


def test_a_chain_gives_each_view_a_key_of_its_position():
    image, key, keys = jnp.zeros((2, 2, 1)), jax.random.key(4), []

    def spy(key, image):
        keys.append(key)
        return image + 1

    np.testing.assert_array_equal(views.chain(spy, spy, spy)(key, image), image + 3)
    for position, own in enumerate(keys):
        assert own == jax.random.fold_in(key, position)
    np.testing.assert_array_equal(views.identity()(key, image), image)
    with pytest.raises(TypeError, match="chain: got 3, expected views"):
        views.chain(spy, 3)


@pytest.mark.parametrize(
    ("view", "channels"),
    [
        (views.small_pictures(), 1),
        (views.small_pictures(flip=0.5), 3),
        (views.contrastive(strength=0.5, blur=0), 3),
        (views.crop_and_flip(2), 3),
    ],
)
def test_ready_sets_keep_pictures_pictures(view, channels):
    image = jnp.float32(batch(channels=channels)[0]) / 255
    keys = jax.random.split(jax.random.key(0), len(image))
    result = np.asarray(jax.jit(jax.vmap(view))(keys, image))
    assert result.min() >= 0
    assert result.max() <= 1 + 1e-6
    assert not np.array_equal(result, image)


def test_views_print_compare_and_pickle():
    view = views.shift(1)
    assert repr(view) == "Compose(views=(random_shift(pixels=1, fill='zero'),))"
    assert pickle.loads(pickle.dumps(view)) == view != views.shift(2)
    assert hash(views.contrastive()) == hash(views.contrastive())


@given(st.floats(0, 1), st.floats(1e-3, 10))
def test_the_int8_grid_takes_every_pixel_as_it_is(mean, std):
    normalization = views.Normalization(mean, std)
    assert abs(normalization.mean - mean) <= 0.5 / 255 + 1e-12
    assert -128 <= normalization.zero_point <= 127
    pixels = np.arange(256, dtype=np.uint8)
    scale = np.float32(normalization.scale)
    for values in (normalization(pixels), normalization(jnp.float32(pixels) / 255)):
        integers = np.round(np.asarray(values) / scale) + normalization.zero_point
        np.testing.assert_array_equal(integers, pixels.astype(int) - 128)
    exact = (pixels.astype(np.float64) / 255 - normalization.mean) / std
    np.testing.assert_allclose(normalization(pixels), exact, rtol=3e-7, atol=1e-12)


def test_measure_is_the_mean_and_deviation_of_all_pixels():
    rng = np.random.default_rng(0)
    image = rng.integers(3, 200, (2500, 3, 3, 3), np.uint8)  # more than one block
    normalization = views.measure(Split(image, np.zeros(2500, np.int32)))
    values = image.astype(np.float64) / 255
    assert abs(normalization.mean - values.mean()) <= 0.5 / 255
    assert normalization.mean * 255 == pytest.approx(round(normalization.mean * 255), abs=1e-9)
    assert normalization.std == pytest.approx(values.std(), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: views.Normalization(127.0, 0.5), "mean=127.0, expected 0..1"),
        (lambda: views.Normalization(0.5, 0.0), "std=0.0"),
        (lambda: views.Normalization(0.5, float("nan")), "std=nan"),
        (
            lambda: views.measure(Split(np.zeros((0, 2, 2, 1), np.uint8), np.zeros(0, np.int32))),
            "no p",
        ),
        (
            lambda: views.measure(Split(np.full((1, 2, 2, 1), 7, np.uint8), np.zeros(1, np.int32))),
            "is 7",
        ),
    ],
)
def test_impossible_normalizations_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
