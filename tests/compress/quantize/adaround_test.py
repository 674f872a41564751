"""AdaRound: freezing gives the integers learned, and no channel's error is above the nearest integers'."""

import importlib
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from post_training_nets import Mixed, accuracy, batches, floats, trained
from quantize_nets import PreActivation, Residual, Shared, pictures, start

from jaxmini.compress.quantize import (
    adaround,
    calibrate,
    freeze,
    int8,
    make_plan,
    per_channel,
    per_tensor,
    quantize,
    without_kernel,
)
from jaxmini.compress.quantize.adaround import error_of, learn, problem_of
from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.layerwise import Layerwise
from jaxmini.compress.quantize.leaves import Leaves, replaced, unfolded_kernel
from jaxmini.model import from_linen
from jaxmini.record import describe, rebuild

module_of_adaround = importlib.import_module("jaxmini.compress.quantize.adaround")
SHORT = adaround(steps=60, batch_size=8, learning_rate=0.1)


def calibrated(module, kernel, x):
    model = quantize(from_linen(module), int8(kernel=kernel))
    return model, calibrate(model, start(from_linen(module), x), [x])


@pytest.mark.parametrize(
    ("module", "kernel"),
    [
        (Residual(), per_tensor(bits=8)),
        pytest.param(PreActivation(), per_channel(bits=3, mse=True), marks=pytest.mark.slow),
        pytest.param(Residual(), per_channel(bits=4), marks=pytest.mark.slow),
        pytest.param(Mixed(), per_tensor(bits=4, mse=True), marks=pytest.mark.slow),
    ],
)
def test_freezing_gives_what_was_learned(module, kernel, monkeypatch):
    x, learned = pictures(8), {}
    model, variables = calibrated(module, kernel, x)

    def spy(problem, settings, key):
        learned[problem.group.name] = integers = learn(problem, settings, key)
        return integers

    monkeypatch.setattr(module_of_adaround, "learn", spy)
    changed = SHORT(model, variables, [x[:4], x[4:]])
    plan = make_plan(model, variables, x)
    before, after = freeze(plan, variables), freeze(plan, changed)
    assert set(learned) == {group.name for group in plan.weighted} - set(without_kernel(plan))
    assert any(np.any(learned[name] != before.kernels[name].kernel) for name in learned)
    for name, integers in learned.items():
        np.testing.assert_array_equal(after.kernels[name].kernel, integers, err_msg=name)
        np.testing.assert_allclose(after.kernels[name].scale, before.kernels[name].scale, rtol=1e-6)
        np.testing.assert_allclose(
            after.kernels[name].bias, before.kernels[name].bias, atol=1, rtol=1e-6
        )
        assert np.abs(integers.astype(int) - before.kernels[name].kernel).max() <= 1
    assert changed["quant"] == variables["quant"]
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), floats(variables), floats(changed))
    for path, leaf in jax.tree_util.tree_flatten_with_path(moved)[0]:
        assert not leaf or path[-1].key == "kernel"


@given(st.integers(0, 99), st.integers(2, 8))
@settings(max_examples=5)
def test_any_integers_can_be_written_back(seed, bits):
    x, rng = pictures(4), np.random.default_rng(seed)
    model = quantize(from_linen(Residual()), int8(kernel=per_channel(bits=bits)))
    variables = written_start(model, x)
    plan = make_plan(model, variables, x)
    leaves, hooks, limit = Leaves(plan), Float(plan, floats(variables)), 2 ** (bits - 1) - 1
    changes, expected, frozen = {}, {}, freeze(plan, variables)
    for group in plan.weighted:
        kernel = frozen.kernels[group.name]
        integers = rng.integers(-limit, limit + 1, kernel.kernel.shape)
        integers[0] = limit * rng.choice((-1, 1), integers[0].shape)
        # A channel that BatchNorm multiplies with 0 has no other integers.
        integers = np.where(
            np.abs(kernel.kernel).reshape(-1, kernel.scale.size).max(0) > 0, integers, 0
        )
        leaf = leaves.kernel(group)
        old = jax.tree.leaves(floats(variables))[leaf]
        changes[leaf] = unfolded_kernel(
            group, integers * kernel.scale.astype(float), old, hooks.values
        )
        expected[group.name] = integers
    after = freeze(plan, replaced(variables, changes))
    for name, integers in expected.items():
        np.testing.assert_array_equal(after.kernels[name].kernel, integers)


_STARTS = {}


def written_start(model, x):
    if "start" not in _STARTS:
        _STARTS["start"] = start(from_linen(Residual()), x)
    return calibrate(model, _STARTS["start"], [x])


def problems(module, kernel, x):
    model, variables = calibrated(module, kernel, x)
    network = Layerwise(model, variables, [x[:4], x[4:]])
    limit = kernel.limit
    return [problem_of(layer, limit) for layer in network]


def test_no_channel_is_worse_than_the_nearest():
    better = 0
    for problem in problems(Mixed(), per_channel(bits=3), pictures(8)):
        integers = learn(problem, SHORT, jax.random.key(0))
        before, after = (error_of(problem, one) for one in (problem.nearest, integers))
        assert np.all(after <= before)
        better += np.sum(after < 0.9 * before)
        assert np.abs(integers).max() <= 3
        assert set(np.unique(integers - np.floor(problem.steps))) <= {-1.0, 0.0, 1.0}
    assert better > 10


def test_a_small_layer_is_rounded_about_as_well_as_can_be():
    """All 2^8 ways to round the 8 weights of a channel are tried."""
    rng, channels = np.random.default_rng(0), 16
    inputs = np.abs(rng.normal(size=(64, 1, 1, 8))) @ (np.eye(8) + 1)
    model = from_linen(nn.Conv(channels, (1, 1), use_bias=False))
    quantized = quantize(model, int8(kernel=per_channel(bits=3)))
    x = jnp.asarray(inputs, jnp.float32)
    variables = calibrate(quantized, model.init(jax.random.key(1), x), [x])
    (layer,) = Layerwise(quantized, variables, [x])
    problem = problem_of(layer, 3)
    steps = problem.steps.reshape(8, channels)
    targets = np.asarray(problem.targets).reshape(64, channels)
    ways = np.array(list(itertools.product((0, 1), repeat=8)))[..., None]
    integers = np.clip(np.floor(steps) + ways, -3, 3)
    outputs = np.einsum("ni,wio->wno", problem.inputs.reshape(64, 8), integers * problem.scale)
    # Without a weight at the end of the grid its scale would be another.
    at_end = np.abs(integers).max(1) == 3
    tried = np.where(at_end, np.mean((outputs - targets) ** 2, 1), np.inf)
    learned = learn(problem, adaround(steps=400, learning_rate=0.05), jax.random.key(0))
    found, nearest = error_of(problem, learned), error_of(problem, problem.nearest)
    assert found.sum() < 0.7 * nearest.sum()
    assert found.sum() < 1.3 * tried.min(0).sum()
    assert np.all(found >= 0.999 * tried.min(0))


@pytest.mark.slow
def test_accuracy_of_few_bits_rises():
    model, variables = trained()
    quantized = quantize(model, int8(kernel=per_channel(bits=2, mse=True)))
    rounded = calibrate(quantized, variables, batches())
    settings = adaround(steps=60, batch_size=16, learning_rate=0.1)
    learned = settings(quantized, rounded, batches())
    assert accuracy(quantized, learned) > accuracy(quantized, rounded) + 0.1


def test_the_same_seed_learns_the_same():
    x = pictures(8)
    model, variables = calibrated(Mixed(), per_channel(bits=3), x)
    first, second = (SHORT(model, variables, [x]) for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"steps": 0}, "steps is 0, expected an integer of at least 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 must be > 0"),
        ({"learning_rate": np.inf}, "learning_rate inf must be > 0"),
        ({"regularization": -1.0}, "regularization -1.0 >= 0"),
        ({"regularization": np.inf}, "regularization inf >= 0, both finite"),
        ({"beta": (np.inf, 2.0)}, r"expected beta \(inf, 2.0\) to fall"),
        ({"beta": (2.0, 20.0)}, r"expected beta \(2.0, 20.0\) to fall"),
        ({"warmup": 1.0}, "warmup 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(fields, says):
    with pytest.raises(ValueError, match=f"adaround: .*{says}"):
        adaround(**fields)


def test_wrong_inputs_are_refused():
    x = pictures(4)
    model, variables = calibrated(Residual(), per_channel(), x)
    with pytest.raises(ValueError, match="adaround: the model is not quantized"):
        SHORT(from_linen(Residual()), variables, [x])
    with pytest.raises(ValueError, match="adaround: there are no pictures"):
        SHORT(model, variables, [])
    with pytest.raises(ValueError, match="batch 0 are not finite"):
        SHORT(model, variables, [x.at[0].set(jnp.nan)])
    with pytest.raises(ValueError, match="sites missing"):
        SHORT(model, floats(variables), [x])


def test_a_shared_kernel_is_told():
    x = pictures(4)
    model, variables = calibrated(Shared(), per_channel(bits=3), x)
    plan = make_plan(model, variables, x)
    shared = {
        name: f"the kernel of {name} is shared"
        for name in ("Shared/conv:conv", "Shared/conv:conv_1")
    }
    assert without_kernel(plan) == shared
    changed = SHORT(model, variables, [x])
    np.testing.assert_array_equal(
        changed["params"]["conv"]["kernel"], variables["params"]["conv"]["kernel"]
    )
    module = nn.BatchNorm(use_running_average=True)
    model, variables = calibrated(module, per_channel(), x)
    with pytest.raises(
        ValueError, match="no layer has a kernel of its own: BatchNorm:scale has no kernel"
    ):
        SHORT(model, variables, [x])


def test_it_is_recorded_by_name():
    assert rebuild(describe(SHORT)) == SHORT
