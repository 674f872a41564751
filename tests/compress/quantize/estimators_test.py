"""Each estimator against a slow float64 version of what it is defined by, on the numbers themselves."""

import functools
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize import entropy, min_max, moving_average, mse, percentile
from jaxmini.compress.quantize.histogram import histogram

count = jax.jit(histogram)


def draw(name, size=20_000, seed=0):
    rng = np.random.default_rng(seed)
    values = {
        "gauss": lambda: rng.normal(size=size),
        "laplace": lambda: rng.laplace(size=size),
        "uniform": lambda: rng.uniform(-1, 3, size),
        "rectified": lambda: np.maximum(rng.normal(size=size), 0),
        "rectified_heavy": lambda: np.maximum(rng.standard_t(3, size=size), 0),
        "shifted": lambda: rng.laplace(size=size) + 1,
        "outlier": lambda: np.append(rng.normal(size=size - 1), 60.0),
        "outlier_below": lambda: np.append(rng.normal(size=size - 1), -60.0),
    }[name]()
    return values.astype(np.float32)


NAMES = ("gauss", "laplace", "uniform", "rectified", "rectified_heavy", "shifted", "outlier")


def estimate(estimator, *batches, bits=8):
    seen = [jax.device_get(jax.jit(estimator.observe)(batch)) for batch in batches]
    ends = estimator.settle(functools.reduce(estimator.follow, seen), bits)
    return tuple(float(np.float32(end)) for end in ends)


# -- references


def rounding_error(values, low, high, bits=8):
    """Mean squared error of rounding onto the grid of a range, float64."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = (high - low) / (2**bits - 1)
    zero_point = np.clip(np.round(least - low / scale), least, most)
    q = np.clip(np.round(values / scale) + zero_point, least, most)
    return np.mean((values - scale * (q - zero_point)) ** 2)


def exceeded_by(magnitudes, allowed):
    """The least number >= 0 that at most ``allowed`` of the magnitudes exceed."""
    ordered = sorted([0.0, *(m for m in magnitudes if m > 0)], reverse=True)
    return ordered[min(int(allowed), len(ordered) - 1)]


def divergence(values, width, edge):
    """Migacz, 2017, by loops: bins of ``width``, a threshold at ``edge`` of them, 256 levels."""
    counts = {}
    for value in values[values != 0]:
        index = math.floor(value / width)
        counts[index] = counts.get(index, 0) + 1
    first = max(-edge, min(0, *counts))
    last = min(edge - 1, max(-1, *counts))
    reference = {i: float(counts.get(i, 0)) for i in range(first, last + 1)}
    kept = dict(reference)
    for index, number in counts.items():
        if not first <= index <= last:
            reference[first if index < first else last] += number
    bins, quantized = len(reference), {}
    for level in range(256):
        members = [i for i in reference if (i - first) * 256 // max(bins, 256) == level]
        filled = [i for i in members if reference[i] > 0]
        for i in filled:
            quantized[i] = sum(kept[m] for m in members) / len(filled)
    total, of_quantized = sum(reference.values()), sum(quantized.values())
    result = 0.0
    for i, number in reference.items():
        if number > 0:
            if quantized[i] == 0:
                return math.inf
            p, q = number / total, quantized[i] / of_quantized
            result += p * math.log(p / q)
    return result


# -- tests


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p", [80, 99, 99.9, 99.999, 100])
def test_percentile(name, p):
    values = draw(name).astype(np.float64)
    low, high = estimate(percentile(p), values.astype(np.float32))
    allowed, width = round((100 - p) / 100 * values.size, 6), np.abs(values).max() / 2048
    assert abs(high - exceeded_by(values, allowed)) <= width
    assert abs(low + exceeded_by(-values, allowed)) <= width
    # What it promises to a reader of the docstring, within a bin.
    assert np.sum(values > high + width) <= allowed
    assert np.sum(values < low - width) <= allowed


def test_a_percentile_that_leaves_a_whole_count_leaves_it():
    """0.1 % of 23,000 is 23; of 22.99999, the next of few numbers far out would be the end."""
    values = np.append(np.linspace(0, 1, 22_977), np.arange(2, 25)).astype(np.float32)
    _, high = estimate(percentile(99.9), values)
    assert high <= 2


def test_the_hundredth_percentile_is_min_max():
    values = draw("laplace")
    assert estimate(percentile(100), values) == estimate(min_max(), values)
    assert estimate(min_max(), values) == (values.min(), values.max())


@pytest.mark.parametrize("name", [*NAMES, "outlier_below"])
def test_mse_is_the_best_pair_of_ends(name):
    values = draw(name).astype(np.float64)
    low, high = estimate(mse(), values.astype(np.float32))
    parts = np.linspace(1, 0.05, 39)
    lows = parts * values.min() if values.min() < 0 else [0.0]
    best = min(
        rounding_error(values[:4000], a, b) for a in lows for b in parts * max(values.max(), 0)
    )
    # The reference sees a part of the numbers, for speed, and is asked about that part.
    clipped = estimate(mse(), values[:4000].astype(np.float32))
    assert rounding_error(values[:4000], *clipped) <= 1.03 * best
    assert values.min() <= low <= 0 <= high <= values.max()


@pytest.mark.parametrize("bits", [4, 5, 6])
@pytest.mark.parametrize("name", ["gauss", "rectified", "laplace"])
def test_fewer_bits_are_clipped_more(name, bits):
    values = draw(name)[:4000].astype(np.float64)
    few, eight = (estimate(mse(), values.astype(np.float32), bits=b) for b in (bits, 8))
    parts = np.linspace(1, 0.05, 39)
    lows = parts * values.min() if values.min() < 0 else [0.0]
    best = min(rounding_error(values, a, b, bits) for a in lows for b in parts * values.max())
    assert rounding_error(values, *few, bits) <= 1.1 * best
    assert rounding_error(values, *few, bits) <= 1.01 * rounding_error(values, *eight, bits)
    assert few[1] < eight[1]


def test_sixteen_bits_are_hardly_clipped():
    values = draw("gauss")
    ends = values.min(), values.max()
    np.testing.assert_allclose(estimate(mse(), values, bits=16), ends, rtol=1e-3)
    np.testing.assert_array_equal(estimate(entropy(), values, bits=16), ends)


def test_mse_pays_as_much_for_an_outlier_as_for_all_others():
    count = 200_000
    low, high = estimate(mse(), draw("outlier", count))
    # d/dh of count * ((h - low) / 255)**2 / 12 + (60 - h)**2 is 0.
    price = count / (255**2 * 12)
    assert abs(high - (60 + price * low) / (1 + price)) < 60 / 256
    uniform = draw("uniform")
    np.testing.assert_allclose(estimate(mse(), uniform), (uniform.min(), uniform.max()), rtol=0.01)


@pytest.mark.parametrize("name", ["laplace", "rectified_heavy", "shifted"])
def test_entropy_is_the_least_divergence(name):
    values = draw(name, 3000)
    known, (low, high) = count(values), estimate(entropy(), values)
    values, width = values.astype(np.float64), known.width
    used = max(side.used for side in known.sides())
    chosen = round(max(high, -low) / width) if max(high, -low) < np.abs(values).max() else used
    least = divergence(values, width, chosen)
    edges = np.unique(np.linspace(256, used, 256).round().astype(int))
    assert chosen in edges
    others = [divergence(values, width, int(edge)) for edge in (*edges[::24], used)]
    assert least <= min(others) + 1e-9
    assert least < max(others)
    assert low == max(values.min(), -chosen * width)
    assert high == min(values.max(), chosen * width)


def test_entropy_clips_a_lone_outlier():
    low, high = estimate(entropy(), draw("outlier", 200_000))
    assert high < 15
    assert -15 < low < -3


@given(st.floats(0.05, 0.95), st.integers(1, 6), st.integers(0, 100))
def test_moving_average(momentum, count, seed):
    batches = [draw("gauss", 50, seed + i) for i in range(count)]
    low, high = (float(end) for end in (min(0, batches[0].min()), max(0, batches[0].max())))
    for batch in batches[1:]:
        low = momentum * low + (1 - momentum) * float(batch.min())
        high = momentum * high + (1 - momentum) * float(batch.max())
    np.testing.assert_allclose(estimate(moving_average(momentum), *batches), (low, high), rtol=1e-6)


@pytest.mark.parametrize("estimator", [min_max(), percentile(99), mse(), entropy()])
def test_the_cut_into_batches_does_not_matter(estimator):
    values = draw("shifted", 6000)
    values[:2000] *= 0.01
    whole = estimate(estimator, values)
    assert estimate(estimator, *np.split(values, 3)) == whole
    assert estimate(estimator, *np.split(values, 6)[::-1]) == whole


@pytest.mark.parametrize(
    "estimator", [min_max(), moving_average(0.9), percentile(99), mse(), entropy()]
)
@pytest.mark.parametrize("constant", [0.0, 3.0, -0.25, 1e-20])
def test_constants_keep_their_range(estimator, constant):
    values = np.full((4, 5), constant, np.float32)
    ends = min(0, float(values[0, 0])), max(0, float(values[0, 0]))
    one_bin = 0 if not isinstance(estimator, percentile) else abs(constant) / 2048
    np.testing.assert_allclose(estimate(estimator, values, values), ends, rtol=0, atol=one_bin)


def test_bad_settings_are_refused():
    for p in (50, 100.1, -1, float("nan")):
        with pytest.raises(ValueError, match="expected 50 < p <= 100"):
            percentile(p)
    for momentum in (0, 1, 1.5):
        with pytest.raises(ValueError, match="expected 0 < m < 1"):
            moving_average(momentum)


def test_estimators_are_values():
    assert percentile(99.9) == percentile(99.9) != percentile(99)
    assert repr(percentile(99.9)) == "percentile(p=99.9)"
    assert [e.clips for e in (min_max(), moving_average(), percentile(99), mse(), entropy())] == [
        False, False, True, True, True,
    ]  # fmt: skip
