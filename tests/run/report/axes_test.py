"""Names keep apart in their order, and logarithmic ticks are few."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from jaxmini.run.report import axes


@given(st.lists(st.floats(0, 100), max_size=7))
def test_spread_keeps_a_gap_and_the_order(positions: list[float]) -> None:
    moved = axes.spread(positions, 14.0, 0.0, 100.0)
    ordered = [moved[i] for i in sorted(range(len(moved)), key=lambda i: positions[i])]
    gaps = [b - a for a, b in itertools.pairwise(ordered)]
    assert all(gap >= 14.0 - 1e-6 for gap in gaps)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in moved)


def test_spread_moves_nothing_that_has_room() -> None:
    assert axes.spread([70.0, 10.0], 14.0, 0.0, 100.0) == [70.0, 10.0]


@given(st.floats(1e-3, 1e9), st.floats(1.5, 1e6))
def test_ticks_are_few_and_inside(low: float, ratio: float) -> None:
    ticks = axes.log_ticks(low, low * ratio)
    assert len(ticks) <= 5
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert ticks or ratio < 2.56


@pytest.mark.parametrize(("x", "side"), [(0.1, "left"), (0.9, "right")])
def test_a_name_stands_where_there_is_room(x: float, side: str) -> None:
    drawn = axes.framed(Figure(), (400, 100), left=0, right=0, bottom=0, top=0)
    axes.name_points(drawn, [(x, 0.5)], ["a name of some length"], ["black"])
    assert drawn.texts[0].get_ha() == side


@pytest.mark.parametrize(
    ("text", "short"), [("50.0 kB", "50 kB"), ("0.500 ms", "0.5 ms"), ("100 kB", "100 kB")]
)
def test_round_numbers_have_no_zeros_at_their_end(text: str, short: str) -> None:
    assert axes.rounded(text) == short
