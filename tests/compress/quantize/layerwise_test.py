"""Layerwise: each layer with what it is fed in both networks, and a change that the layers after it see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import model_of

from jaxmini.compress.quantize import calibrate, quantize
from jaxmini.compress.quantize.evaluate import Float, evaluate_all
from jaxmini.compress.quantize.frozen import Dequantized
from jaxmini.compress.quantize.layerwise import Layerwise, outputs_of
from jaxmini.compress.quantize.stored import floats_of

RNG = np.random.default_rng(0)
PARAMS = {
    "a": RNG.normal(size=(4, 3)).astype(np.float32),
    "b": RNG.normal(size=(3, 3)).astype(np.float32),
    "c": RNG.normal(size=(3, 2)).astype(np.float32),
}


def net(p, x):
    """The first result is read twice, so it must be kept until the last layer."""
    x = jax.nn.relu(x @ p["a"])
    return (x + jnp.tanh(x @ p["b"])) @ p["c"] + 1


MODEL = quantize(model_of(net))
BATCHES = [RNG.normal(size=(count, 4)).astype(np.float32) for count in (5, 5, 2)]


@pytest.fixture(scope="module")
def variables():
    return calibrate(MODEL, {"params": PARAMS}, BATCHES)


def test_a_layer_is_fed_what_both_networks_compute(variables):
    network = Layerwise(MODEL, variables, BATCHES)
    floats, names = floats_of(variables), []
    for layer in network:
        names.append(layer.group.name)
        (source,) = layer.group.inputs
        assert layer.frozen is network.frozen.kernels[layer.group.name]
        np.testing.assert_array_equal(layer.kernel, PARAMS["abc"[len(names) - 1]])
        assert (layer.bias == (1 if len(names) == 3 else 0)).all()
        for hooks, fed in (
            (Float(network.plan, floats), layer.inputs),
            (Dequantized(network.plan, network.frozen), layer.rounded),
        ):
            expected = evaluate_all(network.plan, hooks, BATCHES[0])[source]
            np.testing.assert_allclose(fed[0], expected, rtol=1e-5, atol=1e-6)
            assert [len(batch) for batch in fed] == [5, 5, 2]
    assert names == [":dense", ":dense_1", ":dense_2"]


def test_what_is_settled_is_seen_by_the_layers_after_it_in_the_rounded_network_alone(variables):
    plain = {layer.group.name: layer for layer in Layerwise(MODEL, variables, BATCHES)}
    network = Layerwise(MODEL, variables, BATCHES)
    for layer in network:
        was = plain[layer.group.name]
        for now, before in zip(layer.inputs, was.inputs, strict=True):
            np.testing.assert_array_equal(now, before)
        changed = any(
            np.any(np.asarray(now) != before)
            for now, before in zip(layer.rounded, was.rounded, strict=True)
        )
        assert changed == (layer.group.name != ":dense")
        if layer.group.name == ":dense":
            network.settle(layer, 2 * layer.frozen.float_kernel, layer.bias)
    # What was settled is no change of the frozen network itself.
    assert network.frozen.kernels[":dense"].kernel.max() == 127


def test_a_value_is_dropped_after_its_last_reader(variables):
    network = Layerwise(MODEL, variables, BATCHES[:1])
    held = [len(network._real[0].values) for _ in network]
    assert held == [1, 1, 1]
    assert network._real[0].values == {}


def test_outputs_are_those_before_the_rectifier(variables):
    network = Layerwise(MODEL, variables, BATCHES[:1])
    first = next(iter(network))
    assert first.group.clamp is not None
    outputs = outputs_of(first.group, first.inputs[0], first.kernel, jnp.float32([1, 2, 3]))
    expected = BATCHES[0] @ PARAMS["a"] + np.float32([[1, 2, 3]])
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert (np.asarray(outputs) < 0).any()
