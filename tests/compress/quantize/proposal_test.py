"""A proposal is the best there is in its budget, its bytes are the file's, and its rules are taken."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantize_nets import Residual, pictures, start

from jaxmini.compress.quantize import (
    Grid,
    KernelSensitivity,
    Sensitivity,
    bytes_of,
    calibrate,
    int8,
    make_plan,
    observed,
    per_channel,
    propose,
    quantize,
    sensitivity_of,
    weights_only,
)
from jaxmini.data import Normalization
from jaxmini.evaluate.file_cost import file_cost
from jaxmini.export import Artifact, Layout, tflite
from jaxmini.model import from_linen


def table(costs, weights):
    kernels = (
        KernelSensitivity(f"Net/layer_{i}:conv", size, 2, dict(zip((2, 4, 6, 8), one, strict=True)))
        for i, (one, size) in enumerate(zip(costs, weights, strict=True))
    )
    return Sensitivity(tuple(kernels), {}, per_channel(), "kl", 1)


def bits_of(rules):
    return {one.pattern: one.kernel.bits for one in rules}


@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 1))
def test_it_is_the_best_in_the_budget(seed, layers, share):
    rng = np.random.default_rng(seed)
    costs, weights = rng.choice([0, 1, 2, 3, 0.5], (layers, 4)), rng.integers(1, 60, layers)
    sensitivity = table(costs.tolist(), weights.tolist())
    names = [one.name for one in sensitivity.kernels]
    least, most = (bytes_of(sensitivity, dict.fromkeys(names, bits)) for bits in (4, 8))
    budget = least + int(share * (most - least))
    chosen = bits_of(propose(sensitivity, budget))
    cost = sum(one.costs[chosen[one.name]] for one in sensitivity.kernels)
    assert list(chosen) == names
    assert bytes_of(sensitivity, chosen) <= budget
    choices = (
        dict(zip(names, bits, strict=True))
        for bits in itertools.product((2, 4, 6, 8), repeat=layers)
    )
    costs = [
        sum(one.costs[bits[one.name]] for one in sensitivity.kernels)
        for bits in choices
        if bytes_of(sensitivity, bits) <= budget
    ]
    assert cost == min(costs)


def test_equals_have_the_more_bits():
    sensitivity = table([(1, 0, 0, 0), (0, 0, 0, 0)], (10, 10))
    assert set(bits_of(propose(sensitivity, 1000)).values()) == {4}  # fewer bytes, the same cost
    sensitivity = table([(1, 1, 0, 0), (1, 1, 0, 0)], (10, 10))
    assert set(bits_of(propose(sensitivity, 1000)).values()) == {8}


def test_many_layers_are_quick():
    rng = np.random.default_rng(0)
    costs = -np.sort(-rng.lognormal(size=(60, 4)))
    sensitivity = table(costs.tolist(), rng.integers(1, 10**6, 60).tolist())
    sizes = [
        bytes_of(sensitivity, dict.fromkeys([k.name for k in sensitivity.kernels], b))
        for b in (4, 8)
    ]
    budget = sum(sizes) // 2
    chosen = bits_of(propose(sensitivity, budget))
    assert 0.99 * budget < bytes_of(sensitivity, chosen) <= budget
    assert set(chosen.values()) >= {4, 8}


def test_too_small_a_budget_says_the_smallest():
    sensitivity = table([(3, 2, 1, 0)], (11,))
    assert bits_of(propose(sensitivity, 6 + 8)) == {"Net/layer_0:conv": 4}
    for budget in (13, 0, -5):
        with pytest.raises(ValueError, match=f"propose: {budget} bytes are less than the 14 that"):
            propose(sensitivity, budget)
    with pytest.raises(ValueError, match="no kernel to choose bits for"):
        propose(table([], ()), 100)


def test_its_rules_are_taken():
    x, model = pictures(8), from_linen(Residual())
    quantized = quantize(model)
    variables = calibrate(quantized, start(model, x), [x])
    kernel = per_channel(mse=True)
    sensitivity = sensitivity_of(quantized, variables, [x], bits=(4, 8), kernel=kernel)
    names = [one.name for one in sensitivity.kernels]
    eight, four = (bytes_of(sensitivity, dict.fromkeys(names, bits)) for bits in (8, 4))
    rules = propose(sensitivity, (eight + four) // 2)
    assert set(bits_of(rules).values()) == {4, 8}
    mixed = quantize(model, int8(rules=rules))
    plan = make_plan(mixed, variables, x)
    assert {name: plan.kernels[name].bits for name in names} == bits_of(rules)
    assert all(plan.kernels[name].mse for name in names)
    assert np.all(np.isfinite(jax.jit(mixed.apply)(variables, x)[0]))


class Grey(nn.Module):
    """A first layer of one channel, depthwise ones, factors that fold into nothing, a grouped layer."""

    @nn.compact
    def __call__(self, x):
        bias = {"bias_init": nn.initializers.normal(1.0)}
        x = nn.relu(nn.Conv(6, (3, 3), 2, name="stem", **bias)(x))
        x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise", **bias)(x))
        x = nn.relu(nn.Conv(12, (3, 3), feature_group_count=6, name="twice", **bias)(x))
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="factors")(x))
        x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=2, name="grouped", **bias)(x))
        return nn.Dense(5, name="head", **bias)(x.mean((1, 2)))


NORMALIZATION = Normalization(0.5, 0.25)
NETS = {"residual": (Residual(), 3), "grey": (Grey(), 1)}
SCHEMES = {
    "int8": int8,
    "int16x8": functools.partial(int8, activation=observed(bits=16)),
    "weights_only": weights_only,
}


class Case:
    """A network, what a proposal takes its kernels for, and its file."""

    def __init__(self, name, variant, folder):
        module, channels = NETS[name]
        self.model, self.variant, self.path = from_linen(module), variant, folder / "net.tflite"
        grid = Grid(np.float32(NORMALIZATION.scale), np.int32(NORMALIZATION.zero_point))
        self.grid = {} if variant == "weights_only" else {"input_grid": grid}
        images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, channels), np.uint8)
        self.x = NORMALIZATION(jnp.asarray(images))
        self.variables = start(self.model, self.x)
        self.classes = self.model.apply(self.variables, self.x)[0].shape[-1]

    def calibrated(self, **settings):
        model = quantize(self.model, SCHEMES[self.variant](**settings), **self.grid)
        return model, calibrate(model, self.variables, [self.x])

    def sensitivity(self, bits):
        return sensitivity_of(*self.calibrated(), [self.x], bits=bits)

    def weight_bytes(self, layout, **settings):
        labels = tuple(map(str, range(self.classes)))
        made = Artifact(*self.calibrated(**settings), labels, NORMALIZATION, self.x.shape[1:])
        written = tflite(made, self.path, variant=self.variant, backend="litert", layout=layout)
        return file_cost(written.path).weight_bytes


@pytest.mark.parametrize("name", NETS)
def test_bytes_are_the_files(name, tmp_path):
    case = Case(name, "int8", tmp_path)
    sensitivity = case.sensitivity((3, 4, 8))
    names = [one.name for one in sensitivity.kernels]
    whole = case.weight_bytes(Layout(), kernel=per_channel(bits=3))
    for bits in (3, 4, 8):
        every = dict.fromkeys(names, bits)
        assert bytes_of(sensitivity, every, int4=False) == whole
        packed, is_narrow = bytes_of(sensitivity, every), bits <= 4
        assert (packed < whole) == is_narrow
        if is_narrow:
            assert packed == case.weight_bytes(Layout(int4=True), kernel=per_channel(bits=bits))


def test_a_budget_is_the_files(tmp_path):
    case = Case("residual", "int8", tmp_path)
    sensitivity = case.sensitivity((3, 4, 8))
    names = [one.name for one in sensitivity.kernels]
    three, four, eight = (bytes_of(sensitivity, dict.fromkeys(names, b)) for b in (3, 4, 8))
    assert three == four < eight
    budget = (four + eight) // 2
    rules = propose(sensitivity, budget)
    chosen = bits_of(rules)
    assert set(chosen.values()) == {4, 8}
    assert chosen["Residual/depthwise:conv"] == 8  # fewer bits would save nothing
    stored = case.weight_bytes(Layout(int4=True), rules=rules)
    assert bytes_of(sensitivity, chosen) == stored <= budget


def test_bytes_of_float_operators_and_of_wide_biases_are_the_files(tmp_path):
    case = Case("residual", "weights_only", tmp_path)
    sensitivity = case.sensitivity((4,))
    every = dict.fromkeys([one.name for one in sensitivity.kernels], 4)
    stored = case.weight_bytes(Layout(int4=True), kernel=per_channel(bits=4))
    assert bytes_of(sensitivity, every) == stored
    case = Case("residual", "int16x8", tmp_path)
    sensitivity = case.sensitivity((8,))
    every = dict.fromkeys([one.name for one in sensitivity.kernels], 8)
    assert bytes_of(sensitivity, every) == case.weight_bytes(Layout())
