"""Convolution: what is said of the primitive, and operands that come back from the one layout."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.cpu import convolution
from tests.cpu.case import Case, convolutions, described, net
from tests.cpu.reference import integers

ONE_AXIS = Case(
    2, (9,), 4, (3,), 8, (2,), ((1, 2),), (1,), (3,), groups=4, layout=("NCH", "OIH", "HNC")
)


def test_one_axis_of_space_is_seen_as_a_height_of_one():
    value, _, _ = convolutions(ONE_AXIS)
    c = described(value)
    assert (c.batch, c.size, c.features) == (2, (1, 9), 4)
    assert (c.kernel, c.group_features, c.out_features, c.out) == ((1, 3), 1, 8, (1, 3))
    assert (c.stride, c.padding) == ((1, 2), ((0, 0), (1, 2)))
    assert (c.lhs_dilation, c.rhs_dilation) == ((1, 1), (1, 3))
    assert (c.taps, c.multiplier, c.is_padded) == (3, 2, True)


def test_a_filter_gradient_has_the_batch_in_the_place_of_features():
    _, _, gradient = convolutions(net(8, 3, 3, 5, batch=7))
    c = described(gradient)
    assert (c.features, c.batch, c.out_features, c.out) == (7, 3, 5, (3, 3))
    assert c.kernel == (8, 8)
    assert not described(convolutions(net(4, 2, 2, 2, padding="VALID"))[0]).is_padded


LAYOUTS = tuple(itertools.permutations("NCHW"))[::5]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_pictures_are_undone(layout: tuple[str, ...]):
    """Whatever the order of axes, what a formulation sees is the same, and its result goes back."""
    letters = "".join(layout)
    kernel = letters.replace("N", "O").replace("C", "I")
    case = dataclasses.replace(net(5, 3, 2, 4), layout=(letters, kernel, letters))
    value, _, gradient = convolutions(case)
    space = "".join(axis for axis in kernel if axis in "HW")
    lhs, rhs = integers(value)
    x, w = convolution.as_pictures(jnp.asarray(lhs), jnp.asarray(rhs), described(value))
    np.testing.assert_array_equal(x, lhs.transpose([letters.index(axis) for axis in f"N{space}C"]))
    np.testing.assert_array_equal(w, rhs.transpose([kernel.index(axis) for axis in f"{space}IO"]))
    back = convolution.from_pictures(x, described(value))
    np.testing.assert_array_equal(back, lhs)
    # The result of a filter gradient is a kernel; its operands are pictures and their gradients.
    c = described(gradient)
    np.testing.assert_array_equal(convolution.from_kernel(w, c), rhs)
    examples, gradients = convolution.as_examples(*map(jnp.asarray, integers(gradient)), c)
    assert examples.shape == (2, 5, 5, 3)
    assert gradients.shape == (2, *c.kernel, 4)


def test_one_axis_is_undone_too():
    value, _, _ = convolutions(ONE_AXIS)
    c = described(value)
    x, w = convolution.as_pictures(*map(jnp.asarray, integers(value)), c)
    assert (x.shape, w.shape) == ((2, 1, 9, 4), (1, 3, 1, 8))
    result = np.arange(2 * 3 * 8, dtype=np.float32).reshape(2, 1, 3, 8)
    np.testing.assert_array_equal(
        convolution.from_pictures(jnp.asarray(result), c), result[:, 0].transpose(1, 0, 2)
    )


def test_sums_are_at_least_of_float32():
    for dtype in convolution.FLOATS:
        wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
        assert convolution.sums(dtype) == wide
    c = described(convolutions(dataclasses.replace(net(4, 2, 1, 2), dtype="bfloat16"))[0])
    assert convolution.from_pictures(jnp.zeros((2, 4, 4, 2), jnp.float32), c).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("shape", "kernel", "dtypes", "reason"),
    [
        ((1, 4, 4, 2), (1, 1, 2, 2), ("float32", "float32"), None),
        ((1, 4, 2), (1, 2, 2), ("float16", "float16"), None),
        ((1, 4, 4, 4, 2), (1, 1, 1, 2, 2), ("float32", "float32"), "3 axes of space"),
        ((1, 2), (2, 2), ("float32", "float32"), "0 axes of space"),
        ((1, 4, 4, 2), (1, 1, 2, 2), ("float32", "bfloat16"), "float32 with bfloat16"),
        ((1, 4, 4, 2), (1, 1, 2, 2), ("int8", "int8"), "int8 with int8"),
        ((0, 4, 4, 2), (1, 1, 2, 2), ("float32", "float32"), "an empty array"),
        ((1, 4, 4, 0), (1, 1, 0, 2), ("float32", "float32"), "an empty array"),
    ],
)
def test_what_the_room_does_not_know_is_told(shape, kernel, dtypes, reason):
    lhs, rhs = (
        jax.ShapeDtypeStruct(shape, np.dtype(dtype))
        for shape, dtype in zip((shape, kernel), dtypes, strict=True)
    )
    out = jax.ShapeDtypeStruct((*shape[:-1], kernel[-1]), lhs.dtype)
    assert convolution.objection(lhs, rhs, out, {}) == reason


def test_a_batch_that_is_not_known_yet_is_told():
    (batch,) = jax.export.symbolic_shape("b")
    lhs, out = (jax.ShapeDtypeStruct((batch, 4, 4, 2), jnp.float32) for _ in range(2))
    rhs = jax.ShapeDtypeStruct((1, 1, 2, 2), jnp.float32)
    assert convolution.objection(lhs, rhs, out, {}) == "a shape that is not known yet"
