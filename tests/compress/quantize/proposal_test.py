"""A proposal is the best there is in its budget, its bytes are the file's, and its rules are taken."""

import itertools

import jax
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
    per_channel,
    propose,
    quantize,
    sensitivity_of,
)
from jaxmini.data import Normalization
from jaxmini.evaluate.file_cost import file_cost
from jaxmini.export import Artifact, tflite
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
    sensitivity = table([(1, 1, 0, 0), (0, 1, 0, 0)], (10, 10))
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


def test_bytes_are_the_files(tmp_path):
    model, shape = from_linen(Residual()), (12, 12, 3)
    normalization = Normalization(0.5, 0.25)
    x = pictures(4)
    pixels = Grid(np.float32(normalization.scale), np.int32(normalization.zero_point))
    quantized = quantize(model, input_grid=pixels)
    variables = calibrate(quantized, start(model, x), [x])
    labels = tuple("abcde")
    artifact = Artifact(quantized, variables, labels, normalization, shape, {})
    written = tflite(artifact, tmp_path / "net.tflite", variant="int8", backend="litert")
    sensitivity = sensitivity_of(quantized, variables, [x], bits=(8,))
    names = [one.name for one in sensitivity.kernels]
    assert bytes_of(sensitivity, dict.fromkeys(names, 8)) == file_cost(written.path).weight_bytes
