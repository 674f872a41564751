"""Turned: in parts that come out even, side by side or not, the gradient is that of the convolution."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxmini.cpu import turned
from tests.cpu.case import Case, convolutions, described, forced, net
from tests.cpu.reference import check_exact, integers

CASES = {
    "pairs": net(6, 3, 3, 5, batch=3),
    "odd width, no pairs": net(5, 3, 3, 5, batch=3),
    "a row's features, no pairs": net(4, 2, 3, 32, batch=2),
    "no border": net(6, 3, 3, 5, batch=3, padding="VALID"),
    "cut": net(6, 3, 3, 4, padding=((2, 0), (-1, 1))),
    "stride 2, pairs": net(8, 3, 3, 5, stride=2),
    "stride 2, a rest": net(9, 3, 2, 5, stride=2, padding="VALID"),
    "strides of their own": Case(2, (7, 8), 3, (3, 2), 4, (3, 2), ((1, 1), (0, 2)), (1, 1), (1, 1)),
    "one axis": Case(
        2, (8,), 3, (3,), 4, (1,), ((1, 1),), (1,), (1,), layout=("NHC", "HIO", "NHC")
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("part", [1, 1 << 20])
def test_the_filter_gradient_is_the_convolutions(case: Case, part: int, monkeypatch):
    monkeypatch.setattr(turned, "PART", part)
    _, _, gradient = convolutions(case)
    check_exact(turned.filter_gradient, gradient, is_filter=True)


@pytest.mark.parametrize(
    ("batch", "features", "size", "count"),
    [(128, 16, 32, 2), (128, 32, 16, 4), (97, 8, 16, 1), (6, 4, 8, 6), (2, 64, 64, 2)],
)
def test_parts_come_out_even_and_are_small(batch: int, features: int, size: int, count: int):
    c = described(convolutions(net(size, features, 3, features, batch=batch))[2])
    assert turned.pictures(c) == count
    assert turned.pictures(dataclasses.replace(c, out_features=1 << 20)) == min(count, 2)


def test_numbers_that_are_not_finite_stay_where_they_are():
    """What a sum begins with is made of the gradients, and must not carry theirs."""
    _, _, gradient = convolutions(net(4, 2, 3, 3, batch=2))
    x, g = integers(gradient)
    g[..., :] = 1.0
    g.flat[0] = np.inf
    choice = forced(turned.filter_gradient, gradient, is_filter=True)
    result = np.asarray(jax.jit(lambda *arrays: choice(*arrays))(x, g))
    expected = gradient.primitive.bind(*map(jax.numpy.asarray, (x, g)), **gradient.params)
    np.testing.assert_array_equal(np.isfinite(result), np.isfinite(expected))
