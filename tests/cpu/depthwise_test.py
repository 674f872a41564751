"""Depthwise: each sum is its convolution to the last bit of small integers, wherever it may be used."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxmini.cpu import depthwise
from tests.cpu.case import Case, convolutions, forced, net
from tests.cpu.reference import evaluate, integers

ANY = Case(2, (4, 5), 3, (3, 2), 6, (2, 1), ((2, -1), (0, 2)), (1, 2), (2, 1), groups=3)
# Of two features each to one: what a group gives is summed.
NARROWING = dataclasses.replace(net(3, 6, 2, 3), groups=3)
# Rows of the kernel that no result meets: the picture is smaller than it.
SMALL_MAP = net(2, 3, 5, 3, groups=3)
STRIDES = {
    "stride 2": net(7, 3, 3, 3, stride=2, groups=3),
    "multiplier 2": net(6, 2, 3, 4, stride=2, groups=2),
    "stride above the kernel": net(8, 2, 2, 2, stride=3, groups=2, padding="VALID"),
}


def check(formulation, equation, **options):
    choice, operands = forced(formulation, equation, **options), integers(equation)
    np.testing.assert_array_equal(jax.jit(choice)(*operands), evaluate(equation, *operands))


@pytest.mark.parametrize("case", [ANY, NARROWING, SMALL_MAP])
def test_multiply_adds_are_any_depthwise_convolution(case: Case):
    value, _, _ = convolutions(case)
    check(depthwise.multiply_add, value)
    check(depthwise.multiply_add_pixels, value)


@pytest.mark.parametrize("name", STRIDES)
def test_an_input_gradient_is_interleaved_of_its_phases(name: str):
    check(depthwise.input_by_phases, convolutions(STRIDES[name])[1])


@pytest.mark.parametrize(
    "formulation",
    [depthwise.filter_by_pixels, depthwise.filter_by_sums, depthwise.filter_by_slabs],
)
@pytest.mark.parametrize("batch", [1, depthwise.SLABS + 1])
def test_a_filter_gradient_sums_every_example_once(formulation, batch: int):
    """Fewer examples than slabs, and one more, whose last slabs are filled up with zeros."""
    case = net(4, 2, 3, 4, stride=2, groups=2, batch=batch)
    check(formulation, convolutions(case)[2], is_filter=True)


def test_pixels_that_a_tap_never_meets_have_a_gradient_of_zero():
    _, _, gradient = convolutions(SMALL_MAP)
    check(depthwise.filter_by_pixels, gradient, is_filter=True)
