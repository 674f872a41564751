"""Paired: two results at a time are the convolution, to the last bit of small integers."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.cpu import paired
from tests.cpu.case import Case, convolutions, forced, net
from tests.cpu.reference import evaluate, integers

CASES = {
    "odd width": net(7, 3, 3, 4),
    "stride 2": net(9, 3, 3, 4, stride=2),
    "7x7, stride 2": net(8, 1, 7, 2, stride=2),
    "stride above the kernel": net(10, 2, 2, 3, stride=3, padding="VALID"),
    "one result": net(3, 2, 3, 2, padding="VALID"),
    "cut": net(7, 2, 3, 2, padding=((0, 1), (-2, -1))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_pairs_are_the_convolution(case: Case):
    value, _, _ = convolutions(case)
    operands = integers(value)
    result = jax.jit(forced(paired.forward, value))(*operands)
    np.testing.assert_array_equal(result, evaluate(value, *operands))


@given(st.integers(1, 9), st.integers(1, 4))
def test_every_column_of_the_kernel_lies_once_in_what_a_result_reads(kernel: int, stride: int):
    stretch = paired.PAIR * stride
    reach = -(-((paired.PAIR - 1) * stride + kernel) // stretch)
    where = paired._where(kernel, reach, stretch, stride)
    np.testing.assert_array_equal(where.sum((1, 2)), np.ones((kernel, paired.PAIR)))
    pixel = np.arange(reach * stretch).reshape(reach, stretch)
    for column, result in np.ndindex(kernel, paired.PAIR):
        assert pixel[where[column, :, :, result]] == column + result * stride
