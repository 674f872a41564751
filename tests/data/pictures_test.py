"""Pictures: one file becomes the array that its dataset needs, or an error that names the file."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxmini.data import pictures
from tests.data.harm import harmed


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


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
PNG_START = b"\x89PNG\r\n\x1a\n"


def stored(kind: str) -> bytes:
    """A small picture that is turned by its EXIF orientation, as the bytes of its file."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    picture = Image.fromarray(PIXELS)
    if kind == "palette.png":
        picture.quantize(5).save(file, "png", transparency=2, exif=exif)
    else:
        picture.save(file, kind, exif=exif)
    return file.getvalue()


FILES = {kind: stored(kind) for kind in ("png", "palette.png", "jpeg")}


def require_named_or_whole(path: Path, content: bytes) -> bool:
    """See that a file is refused by its name or gives pixels; whether it was refused."""
    path.write_bytes(content)
    refusals = []
    for channels, size in ((3, None), (1, 4)):
        try:
            image = pictures.read(path, size, channels)
        except ValueError as error:
            refusals.append(str(error))
        else:
            assert (image.dtype, image.ndim, image.shape[-1]) == (np.uint8, 3, channels)
            assert image.size
    assert all(message.startswith(f"{path}: ") for message in refusals)
    return bool(refusals)


# Of what Pillow only warns of: EXIF that it cannot read, and sizes that no one has.
tolerant = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"
)


@tolerant
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_picture_is_refused_by_name_or_gives_pixels(tmp_path, kind):
    contents = list(harmed(FILES[kind]))
    refused = [require_named_or_whole(tmp_path / f"a.{kind}", content) for content in contents]
    assert sum(refused) > 50
    assert not require_named_or_whole(tmp_path / f"a.{kind}", FILES[kind])


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Types and data of a PNG's chunks."""
    found, place = [], len(PNG_START)
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        found.append((kind, content[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    """The file of such chunks, each with its right checksum."""
    return PNG_START + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


@tolerant
@settings(max_examples=150)
@given(st.sampled_from(["png", "palette.png"]), st.data())
def test_a_png_that_is_wrong_under_right_checksums_is_refused_or_gives_pixels(
    tmp_path_factory, kind, draw
):
    parts = chunks(FILES[kind])
    which = draw.draw(st.integers(0, len(parts) - 1))
    data = parts[which][1]
    changed = draw.draw(
        st.one_of(
            st.binary(max_size=20),
            st.integers(0, len(data)).map(lambda end: data[:end]),
            st.tuples(st.integers(0, len(data)), st.binary(max_size=3)).map(
                lambda t: data[: t[0]] + t[1] + data[t[0] + len(t[1]) :]
            ),
        )
    )
    parts[which] = (parts[which][0], changed)
    require_named_or_whole(tmp_path_factory.mktemp("png") / "a.png", png(parts))


@tolerant
@settings(max_examples=150)
@given(
    st.sampled_from(list(FILES)), st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)))
)
def test_any_bytes_written_into_a_picture_are_refused_or_give_pixels(
    tmp_path_factory, kind, written
):
    content = bytearray(FILES[kind])
    for place, some in written:
        place %= len(content)
        content[place : place + len(some)] = some
    require_named_or_whole(tmp_path_factory.mktemp("picture") / f"a.{kind}", bytes(content))


def test_a_header_cut_short_names_the_file(tmp_path):
    (kind, data), *others = chunks(FILES["png"])
    (tmp_path / "a.png").write_bytes(png([(kind, data[:12]), *others]))
    with pytest.raises(
        ValueError, match=r"a\.png: cannot be read as a picture \(Truncated IHDR ch"
    ):
        pictures.read(tmp_path / "a.png", None, 3)
