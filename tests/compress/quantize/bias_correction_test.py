"""Bias correction: every channel of the frozen network has the mean of the float one, layer by layer."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from post_training_nets import Mixed, accuracy, batches, floats, trained
from quantize_nets import PreActivation, Residual, Shared, pictures, start

from jaxmini.compress.quantize import (
    calibrate,
    correct_bias,
    freeze,
    int8,
    make_plan,
    per_channel,
    per_tensor,
    quantize,
    without_bias,
)
from jaxmini.compress.quantize.evaluate import Float, evaluate_group
from jaxmini.compress.quantize.frozen import Dequantized
from jaxmini.compress.quantize.plan import INPUT
from jaxmini.model import from_linen
from jaxmini.record import describe, rebuild


class Unrounded:
    """A mode whose activations pass; what a group leaves is what it had before its rounding."""

    def __init__(self, hooks):
        self.hooks = hooks

    def activation(self, site, values):
        return values

    def __getattr__(self, name):
        return getattr(self.hooks, name)


def channel_means(plan, hooks, x):
    """The mean of each channel of each layer before its rectifier and rounding, float64, by name."""
    values, found = {plan.program.input: hooks.activation(INPUT, x)}, {}
    for group in plan.groups:
        values.update(zip(group.outputs, evaluate_group(plan, group, hooks, values), strict=True))
        if group in plan.weighted:
            bare = dataclasses.replace(group, clamp=None)
            (before,) = evaluate_group(plan, bare, Unrounded(hooks), values)
            rows = np.asarray(before, np.float64).reshape(-1, group.channels[-1])
            found[group.name] = rows.mean(0)
    return found


@pytest.mark.parametrize("module", [Residual(), PreActivation(), Mixed()])
def test_means_are_those_of_the_float_network(module):
    x, model = pictures(8), from_linen(module)
    quantized = quantize(model, int8(kernel=per_channel(bits=3)))
    variables = calibrate(quantized, start(model, x), [x])
    changed = correct_bias()(quantized, variables, [x[:4], x[4:]])
    plan = make_plan(quantized, variables, x)
    real = channel_means(plan, Float(plan, floats(variables)), x)
    before, after = (
        channel_means(plan, Dequantized(plan, freeze(plan, v)), x) for v in (variables, changed)
    )
    missing, frozen = without_bias(plan), freeze(plan, changed)
    # A bias is on a grid: half a step of it is left, and what ties before it, broken otherwise, make.
    for name in set(real) - set(missing):
        kernel = frozen.kernels[name]
        left = np.abs(after[name] - real[name])
        assert np.all(left <= 0.5 * kernel.input_scale * (kernel.scale + 1)), name
    moved = [np.abs(before[name] - means).max() for name, means in real.items()]
    assert max(moved) > 0.05
    assert changed["quant"] == variables["quant"]


def test_only_biases_change():
    x, model = pictures(8), from_linen(Residual())
    quantized = quantize(model, int8(kernel=per_channel(bits=3)))
    variables = calibrate(quantized, start(model, x), [x])
    changed = correct_bias()(quantized, variables, [x])
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), variables, changed)
    paths = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(moved)[0]
    }
    assert all(leaf == path.endswith("['bias']") for path, leaf in paths.items())


def test_accuracy_of_few_bits_rises():
    model, variables = trained()
    quantized = quantize(model, int8(kernel=per_tensor(bits=3)))
    calibrated = calibrate(quantized, variables, batches())
    changed = correct_bias()(quantized, calibrated, batches())
    assert accuracy(quantized, changed) > accuracy(quantized, calibrated) + 0.02


class Norm(nn.Module):
    """BatchNorm without beta: the running mean is all that is added."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
        x = nn.BatchNorm(use_running_average=True, use_bias=False)(x)
        return nn.Dense(3, use_bias=False, name="head")(nn.relu(x).mean((1, 2)))


def test_a_mean_is_as_good_as_a_bias():
    x, model = pictures(8), from_linen(Norm())
    quantized = quantize(model, int8(kernel=per_channel(bits=3)))
    variables = calibrate(quantized, start(model, x), [x])
    plan = make_plan(quantized, variables, x)
    assert without_bias(plan) == {
        "Norm/head:dense": "Norm/head:dense adds no variable of its own: it has no bias"
    }
    changed = correct_bias()(quantized, variables, [x])
    real = channel_means(plan, Float(plan, floats(variables)), x)["Norm/conv:conv"]
    frozen = freeze(plan, changed)
    found = channel_means(plan, Dequantized(plan, frozen), x)["Norm/conv:conv"]
    step = frozen.kernels["Norm/conv:conv"]
    np.testing.assert_array_less(np.abs(found - real), 0.51 * step.input_scale * step.scale + 1e-6)


def test_wrong_inputs_are_refused():
    x, model = pictures(4), from_linen(Residual())
    quantized, variables = quantize(model), start(model, x)
    calibrated = calibrate(quantized, variables, [x])
    with pytest.raises(ValueError, match="correct_bias: the model is not quantized"):
        correct_bias()(model, variables, [x])
    with pytest.raises(ValueError, match="correct_bias: there are no pictures"):
        correct_bias()(quantized, calibrated, [])
    with pytest.raises(ValueError, match="batch 0 are not finite"):
        correct_bias()(quantized, calibrated, [x.at[0].set(jnp.inf)])
    with pytest.raises(ValueError, match="sites missing"):
        correct_bias()(quantized, variables, [x])
    model = from_linen(Shared())
    quantized, variables = quantize(model), start(model, x)
    plan = make_plan(quantized, variables, x)
    assert list(without_bias(plan)) == ["Shared/conv:conv", "Shared/conv:conv_1"]
    model = from_linen(nn.Dense(3, use_bias=False))
    quantized = quantize(model)
    x = x[:, 0, 0]
    variables = calibrate(quantized, model.init(jax.random.key(0), x), [x])
    with pytest.raises(ValueError, match="no layer has a bias of its own: Dense:dense adds no"):
        correct_bias()(quantized, variables, [x])


def test_it_is_recorded_by_name():
    assert rebuild(describe(correct_bias())) == correct_bias()
