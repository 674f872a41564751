"""Dense: each product is its convolution to the last bit of small integers, wherever it may be used."""

import pytest

from jaxmini.cpu import dense
from tests.cpu.case import Case, convolutions, net
from tests.cpu.reference import check_exact

# Strides, dilations of both operands, zeros around and pixels cut off, none of them alike along both axes.
ANY = Case(2, (6, 5), 3, (3, 2), 4, (2, 1), ((2, -1), (0, 1)), (1, 2), (2, 1))
ONE_AXIS = Case(2, (9,), 3, (4,), 2, (3,), ((1, 2),), (1,), (2,), layout=("NHC", "HIO", "NHC"))
SPREAD = Case(2, (3, 4), 5, (1, 1), 3, (1, 1), ((1, 2), (0, 1)), (2, 3), (1, 1))
WITH_REST = net(11, 3, 4, 5, stride=4, padding="VALID")
# The second phase of a stride above the kernel meets no tap.
STRIDES = {
    "stride 2": net(7, 3, 3, 4, stride=2),
    "stride above the kernel": net(8, 2, 2, 3, stride=3, padding="VALID"),
    "cut": net(7, 2, 3, 3, stride=2, padding=((0, 2), (-1, 1))),
}


@pytest.mark.parametrize("case", [ANY, ONE_AXIS, net(1, 3, 3, 2)])
def test_columns_are_any_filter_gradient(case: Case):
    _, _, gradient = convolutions(case)
    check_exact(dense.filter_by_columns, gradient, is_filter=True)


def test_a_pointwise_product_is_padded_and_spread_after_it():
    check_exact(dense.pointwise, convolutions(SPREAD)[0])


def test_patches_leave_out_the_rest_of_a_picture():
    check_exact(dense.patches, convolutions(WITH_REST)[0])


@pytest.mark.parametrize("name", STRIDES)
def test_an_input_gradient_gathers_what_each_tap_gives(name: str):
    check_exact(dense.input_by_columns, convolutions(STRIDES[name])[1])
