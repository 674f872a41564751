"""Where figures stand: measured on pictures whose figures stand where the test put them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini import data
from jaxmini.demo.drawing import USUAL, drawing


def boxes(height: int, width: int, box: tuple[int, int, int, int], ground: int) -> np.ndarray:
    images = np.full((3, height, width, 1), ground, np.uint8)
    top, bottom, left, right = box
    images[:, top:bottom, left:right] = 255 - ground
    return images


@given(st.data(), st.sampled_from([0, 255]))
def test_a_box_is_found_where_it_is(data: st.DataObject, ground: int):
    height, width = data.draw(st.integers(5, 30)), data.draw(st.integers(5, 30))
    # At least one pixel away from the edges, from which the ground is known.
    top, left = data.draw(st.integers(1, height - 3)), data.draw(st.integers(1, width - 3))
    bottom, right = (
        data.draw(st.integers(top + 1, height - 1)),
        data.draw(st.integers(left + 1, width - 1)),
    )
    found = drawing(boxes(height, width, (top, bottom, left, right), ground))
    assert found.ground == ground
    longer = max(bottom - top, right - left)
    assert found.extent == pytest.approx(min(1, longer / min(height, width)))
    assert found.center == pytest.approx(((top + bottom) / 2 / height, (left + right) / 2 / width))


def test_blank_and_missing_pictures_give_the_usual():
    assert drawing(np.zeros((0, 8, 8, 1), np.uint8)) == USUAL
    assert drawing(np.zeros((2, 8, 8, 1), np.uint8)) == USUAL
    assert drawing(np.full((2, 8, 8, 1), 255, np.uint8)).ground == 255


def test_digits_are_light_and_as_high_as_their_pictures():
    found = drawing(data.digits().load().test.image)
    assert (found.ground, found.extent) == (0, 1.0)
    assert found.center == pytest.approx((0.5, 0.5), abs=0.07)
