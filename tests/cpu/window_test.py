"""Window: padding, the pixels of a tap, and the parts of a batch are those of plain NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmini.cpu import window
from tests.cpu.case import Case, convolutions, described
from tests.cpu.reference import dilated, padded

SIDES = st.tuples(st.integers(-1, 2), st.integers(-1, 2))


@given(st.tuples(SIDES, SIDES), st.tuples(st.integers(1, 3), st.integers(1, 2)))
@settings(max_examples=8)
def test_pad_puts_zeros_around_and_between_and_cuts(padding, dilation):
    x = np.arange(1, 2 * 3 * 4 * 2 + 1, dtype=np.float32).reshape(2, 3, 4, 2)
    apart = dilated(x.transpose(0, 3, 1, 2), dilation)
    expected = padded(apart, padding).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(window.pad(jnp.asarray(x), padding, dilation), expected)


def test_what_needs_no_zeros_is_left_as_it_is():
    x = jnp.ones((1, 2, 2, 1))
    assert window.pad(x, ((0, 0), (0, 0))) is x


@pytest.mark.parametrize(
    ("at", "out", "step"), [((0, 1), (3, 2), (2, 3)), ((2, 0), (1, 1), (4, 4))]
)
def test_a_window_is_every_so_manieth_pixel(at, out, step):
    x = np.arange(2 * 6 * 7, dtype=np.float32).reshape(2, 6, 7, 1)
    rows, columns = (first + np.arange(n) * by for first, n, by in zip(at, out, step, strict=True))
    expected = x[:, rows][:, :, columns]
    np.testing.assert_array_equal(window.window(jnp.asarray(x), at, out, step), expected)


def test_positions_go_over_the_taps_in_order():
    taps = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert list(window.positions((2, 2), (3, 1))) == [((i, j), (3 * i, j)) for i, j in taps]


STEPS = st.integers(1, 3)


@given(st.integers(1, 5), st.integers(1, 4), STEPS, STEPS, STEPS, SIDES)
def test_meetings_are_where_a_tap_sees_a_true_pixel(size, kernel, stride, between, apart, around):
    """Of a picture whose pixels are numbered from 1: what is 0 is padding, or between two pixels."""
    pixels = np.arange(1, size + 1)[None, None, :, None]
    row = padded(dilated(pixels, (between, 1)), (around, (0, 0))).ravel()
    count = (len(row) - (kernel - 1) * apart - 1) // stride + 1
    if count < 1:
        return
    sizes = 1, (size, 1), 1, (kernel, 1), 1, (stride, 1)
    case = Case(*sizes, (around, (0, 0)), (between, 1), (apart, 1))
    expected = [
        (result, tap, int(row[result * stride + tap * apart]) - 1)
        for result in range(count)
        for tap in range(kernel)
        if row[result * stride + tap * apart]
    ]
    assert window.meetings(described(convolutions(case)[0]), 0) == expected


@pytest.mark.parametrize(("length", "count"), [(6, 3), (7, 3), (2, 5), (1, 1)])
def test_parts_hold_each_example_once_and_zeros_after_the_last(length: int, count: int):
    x = np.arange(1, length + 1, dtype=np.float32)[:, None]
    parts = np.asarray(window.parts(jnp.asarray(x), count))
    assert len(parts) == count
    flat = parts.reshape(-1, 1)
    np.testing.assert_array_equal(flat[:length], x)
    assert not flat[length:].any()


def test_room_is_zeros_of_the_same_dtype():
    room = window.room(jnp.full((2, 3), 7.0, jnp.bfloat16), (2, 4, 1))
    assert (room.shape, room.dtype) == ((2, 4, 1), jnp.bfloat16)
    assert not np.asarray(room, np.float32).any()
