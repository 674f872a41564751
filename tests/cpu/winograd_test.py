"""Winograd: exact on small integers, for any size and cut of the batch; elsewhere near to plain sums."""

import jax
import numpy as np
import pytest

from jaxmini.cpu import winograd
from tests.cpu.case import Case, convolutions, forced, net
from tests.cpu.reference import evaluate, integers, operands

CASES = {
    "even": net(4, 3, 3, 2, batch=3),
    "odd, cut and padded": Case(5, (5, 6), 2, (3, 3), 3, (1, 1), ((2, 0), (-1, 2)), (1, 1), (1, 1)),
    "one result": net(3, 2, 3, 2, padding="VALID"),
}


@pytest.mark.parametrize(
    ("name", "part"),
    [("even", 1), ("odd, cut and padded", 100), ("one result", 1 << 18)],
    ids=["a picture a part", "pictures left over", "all at once"],
)
def test_it_is_the_convolution_and_its_filter_gradient(name: str, part: int, monkeypatch):
    """Halves and quarters of small integers are exact, so nothing may differ."""
    case = CASES[name]
    monkeypatch.setattr(winograd, "PART", part)
    monkeypatch.setattr(winograd, "FILTER_PART", part)
    value, _, gradient = convolutions(case)
    for formulation, equation, is_filter in (
        (winograd.forward, value, False),
        (winograd.filter_gradient, gradient, True),
    ):
        pair = integers(equation)
        result = jax.jit(forced(formulation, equation, is_filter=is_filter))(*pair)
        np.testing.assert_array_equal(result, evaluate(equation, *pair))


def test_a_batch_is_cut_until_no_part_is_too_large():
    x = np.zeros((5, 4, 4, 2), np.float32)
    assert winograd._count(x, 2, 10**9) == 1
    assert winograd._count(x, 2, 64) == 3  # 160 numbers
    assert (
        winograd._count(x, 8, 64) == 5
    )  # what comes out is larger; never more parts than pictures
    assert winograd._count(x, 8, 1) == 5


def test_an_example_that_is_not_a_number_is_so_alone():
    """Room that a loop fills is made of the first number of the batch."""
    value, _, _ = convolutions(CASES["even"])
    x, w = operands(value)
    x[0] = np.nan
    y = np.asarray(jax.jit(forced(winograd.forward, value))(x, w))
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1:]).all()


def test_its_error_is_of_the_size_of_a_plain_sums():
    value, _, _ = convolutions(net(8, 64, 3, 16))
    pair = operands(value)
    expected = evaluate(value, *pair)
    plain = value.primitive.bind(*map(jax.numpy.asarray, pair), **value.params)
    ours = jax.jit(forced(winograd.forward, value))(*pair)
    errors = [np.sqrt(np.mean((np.asarray(y) - expected) ** 2)) for y in (ours, plain)]
    assert errors[0] <= 4 * errors[1]
