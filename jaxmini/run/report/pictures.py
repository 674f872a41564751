"""Pictures: a picture of the data as PNG bytes, which a report carries inside itself."""

import io

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = (1, 3, 4)


def png(image: np.ndarray) -> bytes:
    """PNG bytes of a picture.

    Args:
        image: uint8 [H, W, C], C = 1 (grey), 3 (RGB) or 4 (RGBA).

    Raises:
        ValueError: another shape or another type of number.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in _CHANNELS:
        raise ValueError(
            f"a picture is uint8 [H, W, C] with C in {_CHANNELS}, got {image.dtype} {image.shape}"
        )
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
