"""Winograd: for any size and cut of the batch, exact on small integers or near to plain sums."""

import math

import jax
import numpy as np
import pytest

from jaxmini.cpu import winograd
from tests.cpu.case import Case, convolutions, described, forced, net
from tests.cpu.reference import check_exact, evaluate, operands

CASES = {
    "even": net(4, 3, 3, 2, batch=3),
    "odd, cut and padded": Case(5, (5, 6), 2, (3, 3), 3, (1, 1), ((2, 0), (-1, 2)), (1, 1), (1, 1)),
    "one result": net(3, 2, 3, 2, padding="VALID"),
}
LARGE = {
    "even": net(8, 3, 3, 2, batch=3),
    "odd, cut and padded": Case(
        5, (9, 13), 2, (3, 3), 3, (1, 1), ((2, 0), (-1, 2)), (1, 1), (1, 1)
    ),
    "no border": net(11, 2, 3, 2, padding="VALID"),
}
PARTS = pytest.mark.parametrize(
    "pictures", [1, 2, 5], ids=["a picture a part", "one left over", "all at once"]
)


@pytest.mark.parametrize("name", CASES)
@PARTS
def test_small_tiles_are_the_convolution_and_its_filter_gradient(
    name: str, pictures: int, monkeypatch
):
    """Halves and quarters of small integers are exact, so nothing may differ."""
    monkeypatch.setattr(winograd, "PART", numbers(CASES[name], pictures))
    value, _, gradient = convolutions(CASES[name])
    check_exact(winograd.forward, value)
    check_exact(winograd.filter_gradient, gradient, is_filter=True)


@pytest.mark.parametrize("name", LARGE)
@PARTS
def test_large_tiles_are_the_convolution_and_its_filter_gradient(
    name: str, pictures: int, monkeypatch
):
    monkeypatch.setattr(winograd, "PART", numbers(LARGE[name], pictures))
    value, _, gradient = convolutions(LARGE[name])
    assert min(described(value).out) > winograd.SMALL
    for formulation, equation in (
        (winograd.forward, value),
        (winograd.filter_gradient, gradient),
    ):
        pair = operands(equation)
        is_filter = equation is gradient
        result = jax.jit(forced(formulation, equation, is_filter=is_filter))(*pair)
        expected = evaluate(equation, *pair)
        assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


def numbers(case: Case, pictures: int) -> int:
    """What a part of so many pictures holds or gives."""
    return pictures * math.prod(case.size) * max(case.features, case.out_features)


@pytest.mark.parametrize("points", [(0, 1, -1), (0, 1, -1, 2), (0, 0.75, -0.75, 1.5, -1.5)])
def test_the_matrices_of_any_points_are_the_convolution_of_a_row(points: tuple[float, ...]):
    """The results of the product, place by place, of both in the tile's space (Lavin & Gray, equation 6)."""
    tiles = winograd.toom_cook(*points)
    assert tiles.size == tiles.step + 2 == len(points) + 1
    rng = np.random.default_rng(0)
    pixels, kernel = rng.normal(size=tiles.size), rng.normal(size=3)
    found = tiles.results @ ((tiles.kernel @ kernel) * (tiles.pixels @ pixels))
    np.testing.assert_allclose(found, np.correlate(pixels, kernel), rtol=0, atol=1e-13)


def test_a_batch_is_cut_until_no_part_is_too_large(monkeypatch):
    x = np.zeros((5, 4, 4, 2), np.float32)  # 160 numbers
    for features, most, count in ((2, 10**9, 1), (2, 64, 3), (8, 64, 5), (8, 1, 5)):
        monkeypatch.setattr(winograd, "PART", most)
        assert winograd._part_count(x, features) == count  # never more parts than pictures


@pytest.mark.parametrize("case", [CASES["even"], LARGE["even"]], ids=["small tiles", "large tiles"])
def test_an_example_that_is_not_a_number_is_so_alone(case: Case):
    """Room that a loop fills is made of the first number of the batch."""
    value, _, _ = convolutions(case)
    x, w = operands(value)
    x[0] = np.nan
    y = np.asarray(jax.jit(forced(winograd.forward, value))(x, w))
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1:]).all()


@pytest.mark.parametrize(("size", "times"), [(7, 4), (8, 8)], ids=["small tiles", "large tiles"])
@pytest.mark.parametrize("features", [64, 512])
def test_its_error_is_near_to_a_plain_sums(size: int, times: float, features: int):
    value, _, _ = convolutions(net(size, features, 3, 16))
    pair = operands(value)
    expected = evaluate(value, *pair)
    plain = value.primitive.bind(*map(jax.numpy.asarray, pair), **value.params)
    ours = jax.jit(forced(winograd.forward, value))(*pair)
    assert deviation(ours, expected) <= times * deviation(plain, expected)
    assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()


def test_its_points_have_half_the_error_of_the_papers(monkeypatch):
    value, _, _ = convolutions(net(16, 64, 3, 16))
    pair = operands(value)
    expected = evaluate(value, *pair)
    ours = jax.jit(forced(winograd.forward, value))(*pair)
    monkeypatch.setattr(winograd, "FOUR", winograd.toom_cook(0, 1, -1, 2, -2))
    papers = jax.jit(forced(winograd.forward, value))(*pair)
    assert deviation(ours, expected) <= 0.6 * deviation(papers, expected)


def deviation(result: jax.Array, expected: np.ndarray) -> float:
    return np.sqrt(np.mean((np.asarray(result) - expected) ** 2))
