"""Encoding: pixels and real numbers as files of every type take them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.evaluate.encoding import PIXELS, as_input, dequantized, encoded, has_grid, quantized
from jaxmini.export.flatbuffer import Tensor

PIXEL = np.arange(256, dtype=np.uint8)[:, None]


def tensor(dtype: type, scale: float | None = None, zero_point: int = 0) -> Tensor:
    scales = np.array([] if scale is None else [scale], np.float32)
    points = np.array([] if scale is None else [zero_point], np.int64)
    return Tensor("x", (1, 1), np.dtype(dtype), scales, points, 0, None)


def test_every_pixel_is_encoded_without_a_wrap():
    np.testing.assert_array_equal(encoded(PIXEL, np.dtype(np.int8))[:, 0], np.arange(-128, 128))
    for name in PIXELS:
        found = encoded(PIXEL, np.dtype(name))
        assert found.dtype == name
        np.testing.assert_array_equal(found + (128.0 if name == "int8" else 0.0), PIXEL)


@given(
    st.sampled_from([np.int8, np.uint8, np.int16]),
    st.floats(1e-4, 10.0),
    st.integers(0, 255),
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5),
)
def test_numbers_become_the_nearest_of_the_grid(
    dtype: type, scale: float, offset: int, numbers: list[float]
):
    ends = np.iinfo(dtype)
    one = tensor(dtype, scale, ends.min + offset)
    numbers = np.array(numbers, np.float32)
    low, high = dequantized(np.array([ends.min, ends.max], dtype), one)
    found = dequantized(quantized(numbers, one), one)
    near = np.clip(numbers, low, high)
    np.testing.assert_array_less(np.abs(found - near), 0.5001 * scale + 1e-5 * np.abs(near))


def test_numbers_of_the_grid_come_back():
    for dtype, zero_point in ((np.int8, -3), (np.uint8, 7)):
        ends = np.iinfo(dtype)
        integers = np.arange(ends.min, ends.max + 1).astype(dtype)
        one = tensor(dtype, 0.037, zero_point)
        np.testing.assert_array_equal(quantized(dequantized(integers, one), one), integers)


def test_only_integers_of_one_scale_lie_on_a_grid():
    one = tensor(np.int8, 0.5)
    assert has_grid(one)
    assert not has_grid(tensor(np.int8))
    assert not has_grid(tensor(np.float32, 0.5))
    assert not has_grid(dataclasses.replace(one, scale=np.ones(2, np.float32)))


@pytest.mark.parametrize(
    ("inputs", "taken", "expected"),
    [
        (np.float32([[0.5]]), tensor(np.float32), np.float32([[0.5]])),
        (np.float64([[0.5]]), tensor(np.float16), np.float16([[0.5]])),
        (np.float32([[0.5]]), tensor(np.uint8, 0.25, 3), np.uint8([[5]])),
        (np.float32([[-9.0]]), tensor(np.int8, 0.01, 5), np.int8([[-128]])),
        (np.uint8([[200]]), tensor(np.int8, 0.01, 5), np.int8([[72]])),
        (np.uint8([[200]]), tensor(np.uint8, 0.01, 5), np.uint8([[200]])),
        (np.uint8([[200]]), tensor(np.float32), np.float32([[200.0]])),
        (np.int32([[7]]), tensor(np.int32), np.int32([[7]])),
    ],
)
def test_inputs_go_in_as_the_tensor_says(inputs: np.ndarray, taken: Tensor, expected: np.ndarray):
    found = as_input(inputs, taken, "a.tflite")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("inputs", "taken", "message"),
    [
        (np.int64([[7]]), tensor(np.int32), "input takes int32; got int64"),
        (np.float32([[7]]), tensor(np.int32), "input takes int32; got float32"),
        (np.float32([[7]]), tensor(np.int8), "takes int8, or pixels in uint8; got float32"),
        (
            np.int16([[7]]),
            tensor(np.int8, 0.5),
            "takes int8, or real numbers in float32, or pixels in uint8; got int16",
        ),
        (np.uint8([[7]]), tensor(np.int16, 0.5), "int16, or real numbers in float32; got uint8"),
        (np.float32([[np.nan]]), tensor(np.float32), "the inputs are not all finite"),
        (np.float32([[np.inf]]), tensor(np.int8, 0.5), "the inputs are not all finite"),
    ],
)
def test_what_says_nothing_to_the_input_is_refused(inputs: np.ndarray, taken: Tensor, message: str):
    with pytest.raises(ValueError, match=f"a.tflite: .*{message}"):
        as_input(inputs, taken, "a.tflite")
