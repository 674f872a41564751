"""One picture file to one uint8 array: orientation, colours and size made what a dataset needs."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxmini.data import damage

SUFFIXES = (".png", ".jpg", ".jpeg")
# Pillow would cut values above 8 bits off at 255 when it converts these.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read(path: Path, size: int | None, channels: int) -> np.ndarray:
    """The picture in a file, uint8 [H, W, channels].

    It is turned as its EXIF orientation says; transparent parts become black.

    Args:
        path: a PNG or JPEG file.
        size: height and width of the result, see ``fit``; None = as stored.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        ValueError: the file is no whole picture, or has more than 8 bits a channel; names the file.
    """
    with damage.named(path, "a picture", "replace or remove the file"), Image.open(path) as opened:
        mode = opened.mode
        if mode not in DEEP_MODES:
            picture = _flatten(ImageOps.exif_transpose(opened))
            picture = picture.convert("L" if channels == 1 else "RGB")
            if size is not None:
                picture = fit(picture, size)
    if mode in DEEP_MODES:
        raise ValueError(
            f"{path}: pixels of mode {mode!r} have more than 8 bits a channel; "
            "save the picture with 8 bits"
        )
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """A picture as ``fit`` makes it, uint8 [H, W, C] to [size, size, C]."""
    if image.shape[:2] == (size, size):
        return image
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    return np.asarray(fit(picture, size)).reshape(size, size, image.shape[-1])


def fit(picture: Image.Image, size: int) -> Image.Image:
    """The largest central square of a picture, resized to ``size`` (linear, antialiased)."""
    return ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)


def _flatten(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        picture.load()
        return picture
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, picture)
