"""Every estimator calibrates a network, training keeps what it clipped, and bad numbers name their site."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_nets import Branches, Residual, pictures, start

from jaxmini.axis import AXIS
from jaxmini.compress.quantize import (
    Grid,
    calibrate,
    entropy,
    int8,
    make_plan,
    min_max,
    moving_average,
    mse,
    per_channel,
    per_tensor,
    percentile,
    quantize,
    rule,
)
from jaxmini.compress.quantize.histogram import SIDE
from jaxmini.model import from_linen

MODEL = from_linen(Residual())
STEM = "Residual/stem:conv"
SCHEME = int8(
    estimator=percentile(99),
    kernel=per_channel(bits=4, mse=True),
    rules=(rule("head", min_max(), per_tensor()),),
)


@functools.cache
def network():
    """Variables and pictures."""
    x = pictures(8)
    return start(MODEL, x), x


def ranges(scheme, *arguments, batches=2):
    variables, x = network()
    quantized = quantize(MODEL, scheme)
    calibrated = calibrate(quantized, variables, jnp.split(x, batches), *arguments)["quant"]
    assert all(end.dtype == jnp.float32 for end in jax.tree.leaves(calibrated))
    return jax.tree.map(float, calibrated)


def test_the_scheme_says_and_an_argument_goes_before_it():
    asked = ranges(int8(estimator=mse()))
    assert asked == ranges(int8(), mse())
    assert asked != ranges(int8()) == ranges(int8(estimator=mse()), min_max())
    assert ranges(int8(rules=(rule("stem", mse()),)), min_max()) == ranges(int8())


@pytest.mark.parametrize("estimator", [percentile(98), mse(), entropy()])
def test_clipped_ranges_lie_within_the_extremes(estimator):
    clipped, whole = ranges(int8(estimator=estimator)), ranges(int8())
    assert clipped.keys() == whole.keys()
    for site, known in whole.items():
        assert known["low"] <= clipped[site]["low"] <= 0 <= clipped[site]["high"] <= known["high"]
    assert clipped != whole
    for site, known in ranges(int8(estimator=estimator), batches=4).items():
        assert known == pytest.approx(clipped[site], rel=1e-3)  # float32 sums of other shapes


def test_the_ends_of_a_percentile_hold_what_they_say():
    _, x = network()
    known = ranges(int8(estimator=percentile(90)))["input"]
    width = float(np.abs(x).max()) * 2 / SIDE
    low, high = np.quantile(x, (0.1, 0.9))
    assert known["low"] == pytest.approx(low, abs=2 * width)
    assert known["high"] == pytest.approx(high, abs=2 * width)


def test_moving_average_follows_the_batches():
    _, x = network()
    first, second = jnp.split(x, 2)
    known = ranges(int8(estimator=moving_average(0.75)))["input"]
    assert known["low"] == pytest.approx(float(0.75 * first.min() + 0.25 * second.min()), rel=1e-6)
    assert known["high"] == pytest.approx(float(0.75 * first.max() + 0.25 * second.max()), rel=1e-6)


def test_tied_tensors_are_one_distribution():
    model, x = from_linen(Branches()), pictures(8)
    variables = start(model, x)
    for estimator in (percentile(100), mse()):
        quantized = quantize(model, int8(estimator=estimator))
        known = calibrate(quantized, variables, [x])["quant"]["Branches/second:conv"]
        assert known["low"] < 0  # of the subtraction; relu6 alone would give 0
        whole = calibrate(quantize(model), variables, [x])["quant"]["Branches/second:conv"]
        if estimator == percentile(100):
            assert known == whole


def test_training_keeps_what_was_clipped_and_moves_the_rest():
    variables, x = network()
    scheme = int8(rules=(rule("stem", estimator=mse()),))
    quantized = quantize(MODEL, scheme)
    calibrated = calibrate(quantized, variables, [x])
    train = jax.jit(functools.partial(quantized.apply, train=True))
    logits, updates = train(calibrated, 3 * x)
    moved = {s for s, known in updates["quant"].items() if known != calibrated["quant"][s]}
    assert moved == updates["quant"].keys() - {STEM}
    expected = jax.jit(quantized.apply)(calibrated, 3 * x)[0]
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_a_clipped_range_asks_for_calibration():
    variables, x = network()
    quantized = quantize(MODEL, int8(rules=(rule("stem", estimator=mse()),)))
    fresh = {**quantized.init(jax.random.key(0), x), **variables}
    _, updates = jax.jit(functools.partial(quantized.apply, train=True))(fresh, x)
    with pytest.raises(
        ValueError, match="1 of 7 ranges have never seen data, 'Residual/stem:conv'"
    ):
        quantized.apply({**variables, **updates}, x)


def test_pmap_is_one_device():
    variables, x = network()
    quantized = quantize(MODEL, SCHEME)
    calibrated = calibrate(quantized, variables, [x])

    def train(variables, x):
        return quantized.apply(variables, x, train=True)

    mapped = jax.pmap(train, axis_name=AXIS, in_axes=(None, 0), out_axes=(0, None))
    logits, updates = jax.jit(train)(calibrated, x)
    shards, together = mapped(calibrated, x.reshape(4, 2, *x.shape[1:]))
    np.testing.assert_allclose(shards.reshape(logits.shape), logits, atol=1e-5)
    for one, other in zip(jax.tree.leaves(updates), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", [min_max(), percentile(99.0), mse(), entropy()], ids=repr)
def test_one_number_of_many_that_is_none_is_seen(estimator):
    """XLA's maximum of many numbers passes over NaN."""
    model, x = quantize(from_linen(Residual()), int8(estimator=estimator)), pictures(24)
    variables = start(model, x[:1])
    with pytest.raises(ValueError, match="numbers at 'input' are not finite in batch 0"):
        calibrate(model, variables, [x.at[5, 3, 2, 1].set(jnp.nan)])


def test_numbers_that_are_not_finite_name_their_site():
    variables, x = network()
    for estimator in (min_max(), moving_average(0.9), percentile(99), mse(), entropy()):
        for bad in (jnp.nan, jnp.inf, -jnp.inf):
            with pytest.raises(ValueError, match="numbers at 'input' are not finite in batch 1"):
                calibrate(quantize(MODEL), variables, [x, x.at[0, 0, 0, 0].set(bad)], estimator)
    broken = jax.tree.map(lambda leaf: leaf, variables)
    broken["params"]["pointwise"]["kernel"] *= jnp.float32(jnp.inf)
    with pytest.raises(ValueError, match="at 'Residual/pointwise:conv' are not finite in batch 0"):
        calibrate(quantize(MODEL), broken, [x])


def test_a_clip_that_leaves_nothing_is_refused():
    variables, x = network()
    sparse = jnp.where(jnp.arange(x.size).reshape(x.shape) % 100 == 0, x, 0.0)
    with pytest.raises(ValueError, match=r"percentile\(p=90\) clips all .* zeros of 'input'"):
        calibrate(quantize(MODEL), variables, [sparse], percentile(90))
    calibrate(quantize(MODEL), variables, [jnp.zeros_like(x)], mse())  # only zeros: their range


def test_other_things_than_estimators_are_refused():
    variables, x = network()
    with pytest.raises(TypeError, match="calibrate: estimator is 'mse', expected one as mse()"):
        calibrate(quantize(MODEL), variables, [x], "mse")
    with pytest.raises(TypeError, match="int8: estimator is <class"):
        int8(estimator=mse)
    with pytest.raises(TypeError, match="int8: kernel is 8, expected one as per_tensor()"):
        int8(kernel=8)
    with pytest.raises(ValueError, match="calibrate: there are no pictures to see"):
        calibrate(quantize(MODEL), variables, [], mse())


def test_a_given_grid_is_not_estimated():
    variables, x = network()
    quantized = quantize(MODEL, int8(estimator=mse()), input_grid=Grid(0.05, 3))
    calibrated = calibrate(quantized, variables, [x])
    assert "input" not in calibrated["quant"]
    plan = make_plan(quantized, calibrated, x)
    assert set(plan.estimators) == set(plan.observed) == set(calibrated["quant"])
