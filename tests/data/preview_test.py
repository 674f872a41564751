"""The contact sheet shows the pictures, and beside them the views that training would show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxmini.data import preview, views
from jaxmini.data.dataset import Split
from jaxmini.data.geometry import random_resized_crop


def split(n=12, size=8, channels=3, classes=3):
    image = np.random.default_rng(0).integers(0, 256, (n, size, size, channels), np.uint8)
    return Split(image, (np.arange(n) // (n // classes)).astype(np.int32))


def find(sheet, image):
    """Top left corners at which a picture stands on the sheet, enlarged by 12 with square pixels."""
    tile = np.kron(np.broadcast_to(image, (*image.shape[:2], 3)), np.ones((12, 12, 1), np.uint8))
    pixels = np.asarray(sheet)
    windows = np.lib.stride_tricks.sliding_window_view(pixels[..., 0], tile.shape[:2])
    corners = np.argwhere(np.all(windows[:, :, ::12, ::12] == tile[::12, ::12, 0], axis=(2, 3)))
    return [
        c
        for c in corners.tolist()
        if np.array_equal(pixels[c[0] : c[0] + 96, c[1] : c[1] + 96], tile)
    ]


def test_every_class_has_its_turn_before_one_has_two():
    ids = preview._choose(split(), 5, seed=0)
    assert sorted(split().label[ids[:3]]) == [0, 1, 2]
    assert len(set(ids.tolist())) == 5


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_is_the_picture_and_its_views_of_the_first_epochs(channels):
    data, view = split(channels=channels), views.crop_and_flip(2)
    sheet = preview.contact_sheet(data, view, rows=1, columns=2, seed=3)
    (example,) = preview._choose(data, 1, 3)
    places = find(sheet, data.image[example])
    expected = [
        views.apply_views(
            view,
            views.Normalization(0.0, 1.0),
            jax.random.key(3),
            0,
            data.image[[example]],
            jnp.int32([example]),
            jnp.int32([epoch]),
        )
        for epoch in range(2)
    ]
    for shown in expected:
        places += find(sheet, np.round(255 * np.asarray(shown[0])).astype(np.uint8))
    assert [left for _, left in places] == sorted({left for _, left in places})
    assert len({top for top, _ in places}) == 1
    assert len(places) == 3


def test_class_names_are_written_beside_the_pictures():
    without = preview.contact_sheet(split(), views.identity(), rows=2, columns=1)
    named = preview.contact_sheet(
        split(), views.identity(), labels=("a very long class name", "b", "c"), rows=2, columns=1
    )
    assert named.width > without.width
    assert named.height == without.height
    unlabelled = Split(split().image, np.full(12, -1, np.int32))
    assert (
        preview.contact_sheet(unlabelled, views.identity(), rows=2, columns=1).width < named.width
    )


@pytest.mark.parametrize("size", [8, 28, 224])
def test_tiles_are_near_one_size_whatever_the_picture(size):
    sheet = preview.contact_sheet(split(3, size), random_resized_crop(size=size), rows=3, columns=3)
    assert 3 * 84 < sheet.height < 3 * 110
    assert 4 * 84 < sheet.width < 4 * 130


def test_a_sheet_is_written_into_folders_made_for_it(tmp_path):
    sheet = preview.contact_sheet(split(), views.identity(), rows=1, columns=1)
    path = preview.write_contact_sheet(tmp_path / "new" / "sheet.png", sheet)
    with Image.open(path) as read:
        assert read.size == sheet.size


@pytest.mark.parametrize("fields", [{"rows": 0}, {"columns": 0}])
def test_an_empty_sheet_is_refused(fields):
    with pytest.raises(ValueError, match="expected at least 1 each"):
        preview.contact_sheet(split(), views.identity(), **fields)
    with pytest.raises(ValueError, match="holds no pictures"):
        preview.contact_sheet(split().take(np.arange(0)), views.identity())
