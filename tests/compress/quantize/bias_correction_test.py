"""Bias correction: every channel has the mean that its kernel gives in float, layer by layer."""

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
    percentile,
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


class FloatKernels(Unrounded):
    """The same, with the kernels and biases of the float network."""

    def __init__(self, hooks, real):
        super().__init__(hooks)
        self.real = real

    def weight(self, group):
        return self.real.weight(group)


def channel_means(plan, hooks, real, x):
    """The mean of each channel of each layer before its rectifier and rounding, float64, by name.

    Of the network as ``hooks`` rounds it, and with that layer's own kernel and bias in float.
    """
    values, found = {plan.program.input: hooks.activation(INPUT, x)}, {}
    for group in plan.groups:
        values.update(zip(group.outputs, evaluate_group(plan, group, hooks, values), strict=True))
        if group in plan.weighted:
            bare = dataclasses.replace(group, clamp=None)
            found[group.name] = [
                np.asarray(before, np.float64).reshape(-1, group.channels[-1]).mean(0)
                for mode in (Unrounded(hooks), FloatKernels(hooks, real))
                for before in evaluate_group(plan, bare, mode, values)
            ]
    return found


def means_of(plan, variables, before, x):
    """``channel_means`` of the frozen network of some variables beside the float one they began as."""
    hooks = Dequantized(plan, freeze(plan, variables))
    return channel_means(plan, hooks, Float(plan, floats(before)), x)


@pytest.mark.parametrize("module", [Residual(), PreActivation(), Mixed()])
def test_means_are_those_of_kernels_in_float(module):
    x, model = pictures(8), from_linen(module)
    quantized = quantize(model, int8(kernel=per_channel(bits=3)))
    variables = calibrate(quantized, start(model, x), [x])
    changed = correct_bias()(quantized, variables, [x[:4], x[4:]])
    plan = make_plan(quantized, variables, x)
    missing, frozen = without_bias(plan), freeze(plan, changed)
    # A bias is on a grid: half a step of it is left, and what ties before it, broken otherwise, make.
    for name, (rounded, real) in means_of(plan, changed, variables, x).items():
        kernel = frozen.kernels[name]
        left = np.abs(rounded - real)
        assert name in missing or np.all(left <= 0.5 * kernel.input_scale * (kernel.scale + 1))
    before = means_of(plan, variables, variables, x).values()
    assert max(np.abs(rounded - real).max() for rounded, real in before) > 0.05
    assert changed["quant"] == variables["quant"]


def test_a_picture_whose_numbers_are_clipped_shifts_no_other():
    """A mean over it would: the others would pay for what its range leaves out."""
    x, model = pictures(8), from_linen(Residual())
    quantized = quantize(model, int8(estimator=percentile(99)))
    variables = calibrate(quantized, start(model, x), [x])
    strange = jnp.concatenate([x, 100 * x[:1]])
    changed = correct_bias()(quantized, variables, [strange])
    apart = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), variables, changed)
    assert 0 < max(jax.tree.leaves(apart)) < 0.02


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
    found, real = means_of(plan, changed, variables, x)["Norm/conv:conv"]
    step = freeze(plan, changed).kernels["Norm/conv:conv"]
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
