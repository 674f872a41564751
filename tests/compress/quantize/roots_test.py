"""Roots as the kernels compute them: every integer of many pairs of grids, through every interpreter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmini.compress.quantize.roots import inverse_root, table
from jaxmini.evaluate.interpreter import Interpreter, Kernels
from tests.export.single import single
from tests.export.tampering import edited

LEVELS = np.arange(-128, 128, dtype=np.int8)[None]


def file_of(scale, target, zero_points):
    """A file of one RSQRT between these grids, of 256 numbers."""

    def edit(_, graph):
        for tensor, step, zero_point in zip(
            graph.tensors, (scale, target), zero_points, strict=True
        ):
            tensor.shape = np.array(LEVELS.shape, np.int32)
            tensor.quantization.scale[0], tensor.quantization.zeroPoint[0] = step, zero_point

    return edited(single("RSQRT"), edit)


@pytest.mark.parametrize("kernels", list(Kernels))
@given(st.floats(1e-7, 10.0), st.floats(1e-4, 10.0), st.integers(-128, 127))
@settings(deadline=None, max_examples=12)
def test_kernels_compute_the_table(kernels, scale, target, zero_point):
    if kernels is Kernels.MICRO:
        pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")
    scale, target = np.float32(scale), np.float32(target)
    content = file_of(scale, target, (-128, zero_point))
    found = Interpreter(content, kernels=kernels).run(LEVELS)
    expected = table(scale, target, (-128, zero_point)) + zero_point
    np.testing.assert_array_equal(found.ravel(), np.clip(expected, -128, 127))


@given(st.integers(1, 255), st.floats(1e-6, 1.0), st.floats(1e-3, 1.0))
@settings(deadline=None, max_examples=100)
def test_a_root_is_the_nearest_integer_but_for_ties(value, scale, target):
    scale, target = np.float32(scale), np.float32(target)
    exact = 1 / np.sqrt(np.float64(value) * np.float64(scale)) / np.float64(target)
    assert abs(inverse_root(value, scale, target) - exact) <= 0.5 + 2e-5 * exact
