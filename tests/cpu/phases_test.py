"""Phases: every tap of a strided input gradient belongs to one phase, and phases take their places."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.cpu import phases
from tests.cpu.case import convolutions, described, net


@given(st.integers(1, 9), st.integers(1, 5), st.integers(-3, 9))
def test_each_tap_meets_true_pixels_at_one_offset(kernel: int, stride: int, before: int):
    met = [phases._meeting(kernel, stride, before, offset) for offset in range(stride)]
    assert sorted(tap for taps in met for tap, _ in taps) == list(range(kernel))
    for offset, taps in enumerate(met):
        for tap, pixel in taps:
            assert stride * pixel == offset + tap - before


def test_phases_take_their_places_and_those_without_taps_are_zero():
    """A kernel of two columns, strides of two rows and three columns: a phase in three has no tap."""
    _, gradient, _ = convolutions(net(7, 1, 2, 1, stride=3, padding="VALID", batch=1))
    c = described(gradient)
    assert (c.lhs_dilation, c.out) == ((3, 3), (7, 7))
    asked = []

    def phase(rows, columns, size):
        asked.append((rows, columns, size))
        return jnp.full((1, *size, 1), float(len(asked)))

    g = jnp.zeros((1, *c.size, 1))
    y = np.asarray(phases.interleave(g, c, phase))[0, :, :, 0]
    assert {size for *_, size in asked} == {(3, 3)}
    assert len(asked) == 4
    silent = [offset for offset in range(3) if not phases._meeting(2, 3, c.padding[0][0], offset)]
    assert len(silent) == 1
    first, second = (offset for offset in range(3) if offset not in silent)
    expected = np.zeros((7, 7))
    for number, (row, column) in enumerate(
        ((first, first), (first, second), (second, first), (second, second)), 1
    ):
        expected[row::3, column::3] = number
    np.testing.assert_array_equal(y, expected)
