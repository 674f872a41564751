"""Pictures: one file becomes the array that its dataset needs, or an error that names the file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxmini.data import pictures


def test_pixels_come_back_as_they_were_stored(tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (3, 5, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(pictures.read(tmp_path / "colour.png", None, 3), colour)
    grey = pictures.read(tmp_path / "colour.png", None, 1)
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R 601, which Pillow rounds
    assert (grey.shape, grey.dtype) == ((3, 5, 1), np.uint8)
    assert np.abs(grey[..., 0] - luma).max() <= 1

    Image.fromarray(colour[..., 0]).save(tmp_path / "grey.png")
    read = pictures.read(tmp_path / "grey.png", None, 3)
    np.testing.assert_array_equal(read, np.repeat(colour[..., :1], 3, axis=-1))


def test_orientation_palette_and_transparency_are_resolved(tmp_path):
    turned = np.zeros((2, 4, 3), np.uint8)
    turned[:, :2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    Image.fromarray(turned).save(tmp_path / "turned.png", exif=exif)
    read = pictures.read(tmp_path / "turned.png", None, 1)
    assert read.shape == (4, 2, 1)
    assert read[:2].min() == 255
    assert read[2:].max() == 0

    web = (204, 51, 0)  # a colour of the palette that Pillow takes
    Image.new("RGB", (8, 6), web).convert("P").save(tmp_path / "palette.png")
    np.testing.assert_array_equal(pictures.read(tmp_path / "palette.png", None, 3)[0, 0], web)

    Image.new("RGBA", (2, 2), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert pictures.read(tmp_path / "clear.png", None, 3).max() == 0
    half = Image.new("LA", (2, 2), (200, 128))
    half.save(tmp_path / "half.png")
    assert abs(int(pictures.read(tmp_path / "half.png", None, 1)[0, 0, 0]) - 100) <= 1


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
def test_the_largest_central_square_is_kept(height: int, width: int, channels: int):
    """Of the size of the result, so that nothing is interpolated; odd margins round to either side."""
    image = np.arange(height * width * channels, dtype=np.uint8).reshape(height, width, channels)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    if (height - side) % 2 or (width - side) % 2:
        assert pictures.resize(image, side).shape == (side, side, channels)
        return
    expected = image[top : top + side, left : left + side]
    np.testing.assert_array_equal(pictures.resize(image, side), expected)


def test_shrinking_is_antialiased():
    """Stripes of one pixel become their mean; the nearest pixel would be one of the two."""
    stripes = np.tile(np.array([[0], [200]], np.uint8), (8, 16))[..., None]
    shrunk = pictures.resize(stripes, 4)
    assert np.abs(shrunk.astype(int) - 100).max() <= 20


def test_what_is_of_the_size_is_not_touched():
    image = np.zeros((4, 4, 3), np.uint8)
    assert pictures.resize(image, 4) is image


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_pixels_are_refused_and_not_cut_off(tmp_path, dtype):
    """Pillow would make 255 of each."""
    path = tmp_path / ("deep.png" if dtype == np.uint16 else "deep.tiff")
    Image.fromarray(np.full((2, 3), 40_000, dtype)).save(path)
    with pytest.raises(ValueError, match=rf"{path.name}: pixels of mode .*more than 8 bits"):
        pictures.read(path, None, 1)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png: cannot be read as a picture.*replace or rem"):
        pictures.read(tmp_path / "text.png", None, 3)
    with pytest.raises(ValueError, match=r"missing\.png: cannot be read"):
        pictures.read(tmp_path / "missing.png", None, 3)
