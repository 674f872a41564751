"""Abreast: results side by side are the convolution, to the last bit of small integers."""

import dataclasses

import pytest

from jaxmini.cpu import abreast
from tests.cpu.case import Case, convolutions, described, net
from tests.cpu.reference import check_exact

CASES = {
    "odd width": net(7, 4, 3, 8),
    "odd features": net(6, 3, 3, 16),
    "odd features, none beside": net(6, 5, 3, 33),
    "one feature": net(6, 1, 3, 16),
    "stride 2": net(9, 3, 3, 4, stride=2),
    "7x7, stride 2": net(8, 1, 7, 2, stride=2),
    "stride above the kernel": net(10, 2, 2, 3, stride=3, padding="VALID"),
    "no border": net(9, 4, 3, 16, padding="VALID"),
    "one result": net(3, 2, 3, 2, padding="VALID"),
    "cut": net(7, 2, 3, 2, padding=((0, 1), (-2, -1))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_results_side_by_side_are_the_convolution(case: Case):
    value, _, _ = convolutions(case)
    check_exact(abreast.forward, value)


@pytest.mark.parametrize(
    ("features", "width", "count"),
    [(16, 32, 2), (12, 32, 2), (8, 32, 4), (1, 64, 32), (1, 9, 8), (17, 32, 1), (40, 32, 1)],
)
def test_a_row_is_filled_and_no_wider_than_the_map(features: int, width: int, count: int):
    c = described(convolutions(net(8, 3, 3, features))[0])
    assert abreast.beside(dataclasses.replace(c, out=(8, width))) == count
