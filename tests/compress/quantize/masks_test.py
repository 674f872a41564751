"""Masks: what is hidden gets less than half a step of attention, in the integers of the file too."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantize_functions import alone, planned

from jaxmini.compress.quantize import Grid
from jaxmini.compress.quantize.grid import HIGH, LOW, dequantized, least, quantized
from jaxmini.compress.quantize.masks import HALF_STEP, Mask

SHAPE = (2, 4, 4)
CAUSAL = np.tril(np.ones((4, 4), bool))


def mask(kept) -> Mask:
    return Mask("m", "m", (), (), None, np.asarray(kept, bool))


def masked(function) -> Mask:
    (group,) = (g for g in planned(alone(function), SHAPE).groups if isinstance(g, Mask))
    return group


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any), st.integers(0, 99))
def test_the_hidden_numbers_of_a_row_together_get_less_than_half_a_step(kept, seed):
    group = mask([kept])
    scores = np.random.default_rng(seed).normal(0, 3, (1, len(kept))).astype(np.float32)
    lowered = np.float64(group.lowered(jnp.asarray(scores), group.kept))
    np.testing.assert_array_equal(lowered[group.kept], scores[group.kept])
    # Beside the least score that is kept alone, which is the worst there can be.
    hidden = np.exp(lowered[~group.kept] - scores[group.kept].min()).sum()
    assert hidden <= HALF_STEP * (1 + 1e-4)


def test_the_row_that_hides_most_says_how_far():
    assert mask(CAUSAL[None]).margin == pytest.approx(np.log(3 / HALF_STEP))
    assert mask([[[True]]]).margin == pytest.approx(
        np.log(1 / HALF_STEP)
    )  # one for all: hides none


@given(
    st.floats(2**-10, 8, width=32),
    st.integers(LOW, HIGH),
    st.floats(2**-10, 8, width=32),
    st.integers(LOW, HIGH),
)
def test_the_addition_takes_every_number_below_the_grid(scale, zero_point, wider, shifted):
    """From the greatest number of the scores' grid: the sum is clipped to the least of the result's."""
    source = Grid(np.float32(scale), np.int32(zero_point))
    target = Grid(np.float32(max(scale, wider)), np.int32(shifted))
    group = mask([[True, False]])
    step = Mask.step(source, target)
    added = (group.steps().astype(np.float32) - step.zero_point) * step.scale
    np.testing.assert_array_equal(group.steps(), [[0, -127]])
    greatest = np.float32(dequantized(np.int8(HIGH), source))
    total = jnp.float32(greatest + added)
    assert quantized(total, target)[0, 1] == LOW
    assert total[0, 0] == greatest


def test_hidden_numbers_take_the_floor_and_have_no_gradient():
    grid = Grid(np.float32(0.5), np.int32(10))
    group = mask([[True, False, True]])
    values = jnp.float32([[1, 2, 3]])
    np.testing.assert_array_equal(group.hidden(values, group.kept, least(grid)), [[1, -69, 3]])
    np.testing.assert_array_equal(
        group.hidden(values, group.kept, -1e9), np.float32([[1, -1e9, 3]])
    )
    assert str(mask(CAUSAL)) == "hides 38%"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.where(CAUSAL[None], x, -1e9),
        lambda x: jnp.where(~CAUSAL[None], -jnp.inf, x),
        lambda x: x + jnp.where(CAUSAL, 0.0, -1e9)[None],
        lambda x: jnp.where(CAUSAL, 0.0, jnp.finfo(jnp.float32).min)[None] + x,
    ],
    ids=["where kept", "where hidden", "added", "added before"],
)
def test_a_mask_is_known_however_it_is_written(function):
    group = masked(function)
    np.testing.assert_array_equal(np.broadcast_to(group.kept, (1, 4, 4))[0], CAUSAL)


def test_a_mask_is_kept_as_small_as_it_is():
    assert masked(lambda x: jnp.where(np.arange(4)[None, None] < 3, x, -1e9)).kept.shape == (
        1,
        1,
        4,
    )
    # The last axis stays: its size says how many numbers may be hidden.
    assert masked(lambda x: jnp.where(np.ones((2, 4, 4), bool), x, -1e9)).kept.shape == (1, 1, 4)


def asked(length=4) -> Mask:
    return Mask("m", "m", (), (), None, None, length)


@given(st.lists(st.booleans(), min_size=2 * 3 * 4, max_size=2 * 3 * 4), st.integers(0, 99))
def test_a_question_may_hide_whole_rows_and_all_there_is(numbers, seed):
    group, kept = asked(), np.reshape(numbers, (2, 3, 4))
    scores = np.random.default_rng(seed).normal(0, 3, kept.shape).astype(np.float32)
    lowered = np.asarray(group.lowered(jnp.asarray(scores), kept))
    least = scores[kept].min() if kept.any() else scores.min()
    assert group.margin == pytest.approx(np.log(3 / HALF_STEP))
    assert lowered.min() == pytest.approx(least - group.margin * (not kept.all()), abs=1e-4)
    np.testing.assert_array_equal(lowered[kept], scores[kept])
    if not kept.any():
        assert lowered.max() == scores.max()


def test_what_a_question_adds_is_one_of_two():
    np.testing.assert_array_equal(asked().steps(), np.int8([-127, 0]))
    assert str(asked()) == "hides by tokens"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: jnp.where(np.arange(2)[:, None, None] > 0, x, -1e9),
            "hides other numbers of other examples",
        ),
        (
            lambda x: jnp.where(np.triu(np.ones((1, 4, 4), bool), 1), x, -1e9),
            "hides all numbers of a row",
        ),
        (lambda x: x + jnp.where(CAUSAL, 1.0, -1e9)[None], "adds a mask and numbers in one"),
        (lambda x: jnp.where(x > 0, x, -1e9), "known before the model runs"),
    ],
)
def test_masks_that_a_file_cannot_have_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        planned(alone(function), SHAPE)
