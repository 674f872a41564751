"""Histories of integers against a slow version of Nagel et al., 2022, one weight at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize import cosine, dampening, freezing, monitoring
from jaxmini.compress.quantize.oscillation import figures, followed, held, unseen

LIMIT = 7


class Weight:
    """Algorithm 1 of the paper for one weight, in float64."""

    def __init__(self, momentum, threshold):
        self.m, self.threshold = momentum, threshold
        self.before, self.direction, self.frequency, self.average = None, 0, 0.0, 0.0
        self.frozen = None

    def see(self, integer):
        """The integer that is used; the state after it."""
        if self.frozen is not None:
            integer = self.frozen
        change = 0 if self.before is None else int(np.sign(integer - self.before))
        oscillates = change != 0 and self.direction != 0 and change != self.direction
        self.frequency = self.m * oscillates + (1 - self.m) * self.frequency
        first = self.before is None
        self.average = integer if first else self.m * integer + (1 - self.m) * self.average
        self.direction = change or self.direction
        self.before = integer
        if self.frozen is None and self.frequency > self.threshold:
            self.frozen = self.before = int(np.round(self.average))
        return integer


@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.3]), st.sampled_from([0.05, 0.25, 1.0]))
def test_history_is_the_algorithm(seed, momentum, threshold):
    rng = np.random.default_rng(seed)
    scale = np.float32([0.5, 2.0])
    integers = np.clip(np.cumsum(rng.integers(-1, 2, (30, 3, 2)), 0), -LIMIT, LIMIT)
    weights = [Weight(momentum, threshold) for _ in range(6)]
    kind, history = freezing(momentum, threshold), unseen((3, 2))
    for step, wanted in enumerate(integers):
        # Off the middle of an integer, as weights are.
        kernel = (wanted + rng.uniform(-0.4, 0.4, (3, 2))) * scale
        kernel = held(jnp.float32(kernel), scale, history)
        used = np.round(np.asarray(kernel) / scale)
        expected = [w.see(i) for w, i in zip(weights, wanted.ravel(), strict=True)]
        np.testing.assert_array_equal(used.ravel(), expected)
        history = followed(history, kernel, scale, LIMIT, kind, jnp.int32(step))
    for name, attribute in (("frequency", "frequency"), ("average", "average")):
        values = [getattr(weight, attribute) for weight in weights]
        np.testing.assert_allclose(history[name].ravel(), values, rtol=1e-4, atol=1e-5)
    frozen = [weight.frozen is not None for weight in weights]
    np.testing.assert_array_equal(history["is_frozen"].ravel(), frozen)
    np.testing.assert_array_equal(history["integers"].ravel(), [w.before for w in weights])
    np.testing.assert_allclose(figures({"k": history})["frozen"], np.mean(frozen), rtol=1e-6)


def test_a_frozen_weight_has_no_gradient_and_moves_with_its_scale():
    history = unseen((3, 1)) | {
        "integers": jnp.int8([[5], [-128], [2]]),
        "is_frozen": jnp.bool_([[True], [False], [False]]),
    }
    kernel, scale = jnp.float32([[9.0], [1.0], [2.0]]), jnp.float32([0.5])
    np.testing.assert_array_equal(held(kernel, scale, history), [[2.5], [1], [2]])
    slopes = jax.grad(lambda k, s: held(k, s, history).sum(), (0, 1))(kernel, scale)
    np.testing.assert_array_equal(slopes[0], [[0], [1], [1]])
    np.testing.assert_array_equal(slopes[1], [5])


def test_figures_count_what_oscillates_and_is_not_frozen():
    history = unseen((4,)) | {
        "frequency": jnp.float32([0.1, 0.004, 0.2, 0]),
        "is_frozen": jnp.bool_([False, False, True, False]),
    }
    found = figures({"a": history, "b": unseen((4,))})
    assert {name: float(value) for name, value in found.items()} == {
        "oscillating": 1 / 8,
        "frozen": 1 / 8,
    }


@given(st.integers(0, 10_000))
def test_dampening_pulls_to_the_middle(seed):
    kernel = np.random.default_rng(seed).normal(size=(5, 2), scale=4).astype(np.float32)
    scale, strength = np.float32([0.5, 1.0]), 0.25
    value, slope = jax.value_and_grad(
        lambda k: dampening(strength=strength).penalty(k, scale, LIMIT, jnp.int32(0))
    )(kernel)
    expected, slopes = 0.0, np.zeros(kernel.shape)
    for index in np.ndindex(kernel.shape):
        s, w = float(scale[index[-1]]), float(kernel[index])
        middle = np.clip(np.round(w / s), -LIMIT, LIMIT) * s
        clipped = np.clip(w, -LIMIT * s, LIMIT * s)
        expected += strength * (middle - clipped) ** 2
        slopes[index] = 2 * strength * (w - middle) * (w == clipped)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(slope, slopes, rtol=1e-4, atol=1e-5)
    assert monitoring().penalty(kernel, scale, LIMIT, jnp.int32(0)) is None
    assert freezing().penalty(kernel, scale, LIMIT, jnp.int32(0)) is None


def test_thresholds_and_strengths_may_move():
    kind = freezing(threshold=cosine(0.04, 0.01, 100))
    for step, expected in ((0, 0.04), (50, 0.025), (100, 0.01), (1000, 0.01)):
        np.testing.assert_allclose(kind.threshold_at(jnp.int32(step)), expected, rtol=1e-5)
    assert np.isinf(monitoring().threshold_at(jnp.int32(0)))
    kernel, scale = jnp.full((1, 1), 0.3), jnp.ones(1)
    rising = dampening(strength=cosine(0, 1, 10))
    np.testing.assert_allclose(rising.penalty(kernel, scale, LIMIT, jnp.int32(0)), 0, atol=1e-7)
    np.testing.assert_allclose(rising.penalty(kernel, scale, LIMIT, jnp.int32(10)), 0.09, rtol=1e-5)


def test_bad_settings_are_refused():
    for momentum in (0, 1, -0.1):
        with pytest.raises(ValueError, match="freezing: momentum is .*expected 0 < m < 1"):
            freezing(momentum)
    for threshold in (-1, 1.5, np.inf, np.nan, cosine(2.0, 0.01, 100)):
        with pytest.raises(
            ValueError, match="freezing: threshold is .*, expected a number in 0..1$"
        ):
            freezing(threshold=threshold)
    assert freezing(threshold=1).threshold == 1
    for strength in (-1, np.inf):
        with pytest.raises(ValueError, match=f"is {strength}, expected a finite number >= 0"):
            dampening(strength=strength)
    with pytest.raises(ValueError, match="dampening: strength is nan, expected a finite number"):
        dampening(strength=float("nan"))
