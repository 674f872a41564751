"""Sensitivity: costs are those of rounding one thing by hand; they tell a layer that must not be rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from post_training_nets import floats
from quantize_nets import PreActivation, Residual, pictures, start

from jaxmini.compress.quantize import (
    calibrate,
    kl,
    make_plan,
    noise_to_signal,
    per_channel,
    per_tensor,
    quantize,
    sensitivity_of,
)
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.model import from_linen

NAMES = ["stem:conv", "depthwise:conv", "pointwise:conv", "head:dense"]
TABLE = """\
kl of rounding one thing alone, 8 pictures
                         weights   2 bits   4 bits   8 bits  activation"""


@pytest.fixture(scope="module")
def net():
    x, model = pictures(8), from_linen(Residual())
    quantized = quantize(model)
    return quantized, calibrate(quantized, start(model, x), [x]), x


class Rounded(Float):
    """The float network with one kernel rounded by NumPy, or one site."""

    def __init__(self, plan, variables, name, bits=None, grid=None):
        super().__init__(plan, variables)
        self.name, self.bits, self.grid = name, bits, grid

    def weight(self, group):
        kernel, bias = super().weight(group)
        if group.name != self.name or self.bits is None:
            return kernel, bias
        limit, kernel = 2 ** (self.bits - 1) - 1, np.asarray(kernel, np.float64)
        scale = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(0) / limit
        scale = np.maximum(scale, 1e-6 / limit)
        return jnp.float32(np.round(kernel / scale) * scale), bias

    def activation(self, site, values):
        if site != self.name or self.grid is None:
            return values
        low, high = float(self.grid["low"]), float(self.grid["high"])
        scale = (high - low) / 255
        zero = np.round(-128 - low / scale)
        steps = np.clip(np.round(np.asarray(values, np.float64) / scale) + zero, -128, 127)
        return jnp.float32((steps - zero) * scale)


def reference_kl(logits, rounded):
    logits, rounded = np.float64(logits), np.float64(rounded)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_q = rounded - np.log(np.exp(rounded).sum(-1, keepdims=True))
    return np.mean(np.sum(np.exp(log_p) * (log_p - log_q), -1))


def test_costs_are_those_by_hand(net):
    model, variables, x = net
    found = sensitivity_of(model, variables, [x[:4], x[4:]], bits=(2, 4, 8))
    plan = make_plan(model, variables, x)
    expected = evaluate(plan, Float(plan, floats(variables)), x)
    assert [one.name for one in found.kernels] == [f"Residual/{name}" for name in NAMES]
    for one in found.kernels:
        for bits, cost in one.costs.items():
            hooks = Rounded(plan, floats(variables), one.name, bits=bits)
            by_hand = reference_kl(expected, evaluate(plan, hooks, x))
            np.testing.assert_allclose(cost, by_hand, rtol=2e-2, atol=2e-7, err_msg=one.name)
    assert list(found.activations) == list(plan.sites)
    for site, cost in found.activations.items():
        hooks = Rounded(plan, floats(variables), site, grid=variables["quant"][site])
        by_hand = reference_kl(expected, evaluate(plan, hooks, x))
        np.testing.assert_allclose(cost, by_hand, rtol=5e-2, atol=2e-7, err_msg=site)
    assert found.pictures == 8
    assert found.bits == (2, 4, 8)
    assert [(one.weights, one.channels) for one in found.kernels] == [
        (216, 8),
        (72, 8),
        (64, 8),
        (40, 5),
    ]


def test_fewer_bits_cost_more(net):
    model, variables, x = net
    found = sensitivity_of(model, variables, [x], bits=(8, 2, 5), measure=noise_to_signal)
    assert found.measure == "noise_to_signal"
    for one in found.kernels:
        assert list(one.costs) == [2, 5, 8]
        assert one.costs[2] > one.costs[5] > one.costs[8] > 0
        # Every bit takes away about three quarters of the noise's power.
        assert 10 < one.costs[5] / one.costs[8] < 2000


def test_bits_may_be_of_numpy(net):
    model, variables, x = net
    found = sensitivity_of(model, variables, [x], bits=np.arange(7, 9))
    assert found.bits == (7, 8)
    assert {type(bits) for bits in found.bits} == {int}
    assert [one.packable for one in found.kernels] == [True, False, True, True]


def test_a_layer_with_an_outlier_is_told(net):
    model, variables, x = net

    def costs(variables):
        settings = {"bits": (4,), "kernel": per_tensor(), "measure": noise_to_signal}
        found = sensitivity_of(model, calibrate(model, variables, [x]), [x], **settings)
        return {one.name: one.costs[4] for one in found.kernels}

    params = jax.tree.map(np.array, variables["params"])
    kernel = params["pointwise"]["kernel"]
    kernel[0, 0, 0, 1] = 10 * np.abs(kernel).max()
    before, after = costs(variables), costs({**variables, "params": params})
    rise = {name: after[name] / before[name] for name in before}
    assert max(rise, key=rise.get) == "Residual/pointwise:conv"
    assert rise["Residual/pointwise:conv"] > 2


def test_it_prints_as_a_table(net):
    model, variables, x = net
    lines = str(sensitivity_of(model, variables, [x], bits=(2, 4, 8))).splitlines()
    assert lines[0] == TABLE.splitlines()[0]
    assert lines[1].split() == TABLE.splitlines()[1].split()
    assert [line.split()[0] for line in lines[2:]] == [
        *(f"Residual/{name}" for name in NAMES),
        "input",
        "Residual:add",
        "Residual:mean",
    ]
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[2].split()[1] == "216"


def test_measures():
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    rounded = logits + 0.1 * jax.random.normal(jax.random.key(1), (5, 3))
    np.testing.assert_allclose(kl(logits, rounded), reference_kl(logits, rounded), rtol=1e-3)
    ratio = np.sum(np.float64(rounded - logits) ** 2) / np.sum(np.float64(logits) ** 2)
    np.testing.assert_allclose(noise_to_signal(logits, rounded), ratio, rtol=1e-5)
    assert noise_to_signal(0 * logits, 0 * logits) == 0


def test_wrong_inputs_are_refused(net):
    model, variables, x = net
    with pytest.raises(ValueError, match="sensitivity: the model is not quantized"):
        sensitivity_of(from_linen(Residual()), variables, [x])
    with pytest.raises(ValueError, match="sensitivity: there are no pictures"):
        sensitivity_of(model, variables, [])
    with pytest.raises(ValueError, match="batch 0 are not finite"):
        sensitivity_of(model, variables, [x.at[0].set(jnp.nan)])
    for bits in ((1,), (8, 9)):
        with pytest.raises(ValueError, match="bits is [19], expected an integer 2..8"):
            sensitivity_of(model, variables, [x], bits=bits)
    with pytest.raises(ValueError, match="there are no bits"):
        sensitivity_of(model, variables, [x], bits=())
    with pytest.raises(
        ValueError, match="cost of rounding the kernel of Residual/stem:conv is nan"
    ):
        sensitivity_of(model, variables, [x], bits=(8,), measure=lambda a, b: jnp.sum(a) * jnp.nan)
    with pytest.raises(ValueError, match="sites missing"):
        sensitivity_of(model, floats(variables), [x])


def test_layers_without_a_kernel_have_their_factors_rounded():
    x, model = pictures(4), from_linen(PreActivation())
    quantized = quantize(model)
    variables = calibrate(quantized, start(model, x), [x])
    found = sensitivity_of(quantized, variables, [x], bits=(4, 8), kernel=per_channel(mse=True))
    assert "PreActivation/BatchNorm_0:scale" in {one.name for one in found.kernels}
    assert found.kernel == per_channel(mse=True)
