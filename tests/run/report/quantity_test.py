"""Quantities are short, and say no more than was measured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.run.report import quantity

FUNCTIONS = [
    quantity.short,
    quantity.significant,
    quantity.percent,
    quantity.points,
    quantity.duration,
    quantity.milliseconds,
]


@pytest.mark.parametrize("write", [*FUNCTIONS, quantity.count])
def test_what_is_missing_is_a_dash(write) -> None:
    assert write(None) == "–"


@pytest.mark.parametrize("write", FUNCTIONS)
def test_what_is_not_finite_does_not_pass_for_missing(write) -> None:
    assert (write(math.nan), write(-math.inf)) == ("nan", "−inf")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (79_616, "79.6 kB"), (999_499, "999 kB"), (999_500, "1.00 MB")],
)
def test_sizes(value: int, text: str) -> None:
    assert quantity.short(value, "B") == text


def test_counts() -> None:
    assert quantity.count(1_228_682) == "1,228,682"
    assert quantity.short(71_834) == "71.8 k"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.2, "1.20"), (300.0, "300"), (-0.0471, "−0.0471"), (4.2e-9, "4.20e−09")],
)
def test_significant_digits(value: float, text: str) -> None:
    assert quantity.significant(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0.00%"), (0.96111, "96.11%"), (1.0, "100.00%"), (0.99999, ">99.99%")]
)
def test_percent(share: float, text: str) -> None:
    assert quantity.percent(share) == text


def test_percent_without_decimals() -> None:
    assert quantity.percent(0.974, 0) == "97%"
    assert quantity.percent(0.997, 0) == ">99%"


@given(st.floats(0, 1, exclude_max=True))
def test_only_the_whole_reads_a_hundred(share: float) -> None:
    assert not quantity.percent(share).startswith("100")


@pytest.mark.parametrize(
    ("difference", "text"), [(0.0194, "+1.94"), (-0.0028, "−0.28"), (1e-9, "0.00"), (-1e-9, "0.00")]
)
def test_points(difference: float, text: str) -> None:
    assert quantity.points(difference) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4211, "0.421 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (252.4, "4 min 12 s"),
        (3599.6, "1 h 00 min"),
        (90_061, "25 h 01 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert quantity.duration(seconds) == text


def test_milliseconds() -> None:
    assert quantity.milliseconds(0.41234) == "0.412 ms"
    assert quantity.milliseconds(0.0211, 2) == "0.021 ms"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (7e-5, 2, "0.000070 ms"),
        (0.0, 3, "0 ms"),
        (9.996, 3, "10.0 ms"),
        (1234.5, 3, "1230 ms"),
        (2.5e6, 3, "2500000 ms"),
    ],
)
def test_latencies_are_plain_digits(value: float, digits: int, text: str) -> None:
    assert quantity.milliseconds(value, digits) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(24.06, "24.1 dB"), (-3.0, "−3.0 dB"), (math.inf, "∞ dB"), (None, "–"), (math.nan, "nan")],
)
def test_decibels(ratio: float | None, text: str) -> None:
    assert quantity.decibels(ratio) == text
