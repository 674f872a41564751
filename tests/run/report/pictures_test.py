"""A picture in a report is the picture of the data, to the pixel."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxmini.run.report.pictures import SIGNATURE, png


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_pixels_come_back(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    content = png(image)
    with Image.open(io.BytesIO(content)) as opened:
        found = np.asarray(opened).reshape(5, 7, channels)
    assert content.startswith(SIGNATURE)
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 1)), np.zeros((4, 4, 2), np.uint8)])
def test_another_shape_or_type_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"a picture is uint8 \[H, W, C\]"):
        png(image)
