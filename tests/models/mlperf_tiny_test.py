"""The nets of MLPerf Tiny: the counts of the reference implementations, biases, borders and errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxmini import models
from jaxmini.evaluate.cost import Cost, cost
from jaxmini.model import from_linen
from jaxmini.models.mlperf_tiny import Conv, Residual, Separable, TinyNet
from jaxmini.record import describe, rebuild

KEY = jax.random.key(0)
# Parameters, statistics and multiply-accumulates of the Keras models of the benchmark's repository.
PUBLISHED = [
    (models.mlperf_resnet8(), (32, 32, 3), Cost(78_186, 480, 12_501_632), 10),
    (models.mlperf_resnet8(width=40), (32, 32, 3), Cost(481_530, 1_200, 76_473_920), 10),
    (models.mlperf_mobilenet_v1(), (96, 96, 3), Cost(216_322, 5_472, 7_489_664), 2),
    (models.mlperf_ds_cnn(), (49, 10, 1), Cost(23_756, 1_152, 2_656_768), 12),
    (models.mlperf_autoencoder(), (640,), Cost(267_928, 2_064, 264_192), 640),
]


@pytest.mark.parametrize(("net", "shape", "expected", "outputs"), PUBLISHED)
def test_a_net_costs_what_the_reference_does(net, shape, expected, outputs):
    assert cost(net, shape) == expected
    found = jax.eval_shape(lambda x: net.init_with_output(KEY, x)[0], jnp.zeros((3, *shape)))
    assert (found.shape, found.dtype) == ((3, outputs), jnp.float32)
    assert rebuild(describe(net)) == net


@pytest.mark.parametrize(
    ("net", "features"),
    [
        (models.mlperf_resnet8(None), 64),
        (models.mlperf_mobilenet_v1(None), 256),
        (models.mlperf_ds_cnn(None), 64),
    ],
)
def test_without_classes_a_net_returns_its_pooled_features(net, features):
    found = jax.eval_shape(lambda x: net.init_with_output(KEY, x)[0], jnp.zeros((2, 32, 32, 3)))
    assert found.shape == (2, features)


def test_every_convolution_has_a_bias_and_all_but_shortcuts_a_batch_norm():
    net = models.mlperf_resnet8()
    params = flatten_dict(jax.eval_shape(net.init, KEY, jnp.zeros((1, 32, 32, 3)))["params"])
    convs = {path[0] for path, leaf in params.items() if leaf.ndim == 4}
    norms = {path[0] for path in params if path[-1] == "scale"}
    assert {path[0] for path in params if path[-1] == "bias"} == convs | norms | {"head"}
    assert convs - {name.replace("_bn", "_conv") for name in norms} == {
        "row2_shortcut",
        "row3_shortcut",
    }


def test_a_residual_row_is_keras_arithmetic(draw):
    """NumPy: SAME borders at stride 2, biases, epsilon 1e-3, no norm in the shortcut."""
    x = np.random.default_rng(2).normal(size=(1, 6, 6, 2)).astype(np.float32)
    net = TinyNet((Residual(3, stride=2),))
    variables = draw(net, x)
    params, statistics = variables["params"], variables["batch_stats"]

    def conv(x, name, stride):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        below = max(kernel.shape[0] - stride, 0)  # SAME on even sizes: the odd pixel goes below
        x = np.pad(x, ((0, 0), (below // 2, -(-below // 2)), (below // 2, -(-below // 2)), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
        return np.einsum("bhwcij,ijco->bhwo", windows[:, ::stride, ::stride], kernel) + bias

    def norm(x, name):
        mean, var = statistics[name]["mean"], statistics[name]["var"]
        return (x - mean) / np.sqrt(var + 1e-3) * params[name]["scale"] + params[name]["bias"]

    y = np.maximum(norm(conv(x, "row0_first_conv", 2), "row0_first_bn"), 0)
    y = norm(conv(y, "row0_second_conv", 1), "row0_second_bn")
    expected = np.maximum(y + conv(x, "row0_shortcut", 2), 0).mean((1, 2))
    np.testing.assert_allclose(jax.jit(net.apply)(variables, x), expected, atol=1e-5)


def test_keyword_spotting_leaves_the_last_of_25_rows_out(draw):
    net = TinyNet((Separable(4, stride=2),), even_height=True)
    x = np.random.default_rng(2).normal(size=(1, 49, 10, 8)).astype(np.float32)
    variables = draw(net, x)
    changed = x.copy()
    changed[:, 48:] = -9.0
    seen = x.copy()
    seen[:, 46:] = -9.0
    apply = jax.jit(net.apply)
    np.testing.assert_array_equal(apply(variables, x), apply(variables, changed))
    assert np.abs(apply(variables, x) - apply(variables, seen)).max() > 1e-3


def test_training_moves_the_statistics_by_a_hundredth():
    net = from_linen(TinyNet((Conv(4),), 3))
    x = np.random.default_rng(2).normal(1.0, size=(8, 8, 8, 3)).astype(np.float32)
    variables = net.init(KEY, x)
    _, updates = net.apply(variables, x, train=True)
    var = updates["batch_stats"]["row0_bn"]["var"]
    assert ((var >= 0.99) & (var < 1.5)).all()
    assert not np.array_equal(var, variables["batch_stats"]["row0_bn"]["var"])


def test_widths_without_channels_are_refused():
    for width in (0, math.nan):
        with pytest.raises(
            ValueError, match=f"mlperf_resnet8: width is {width}, expected at least 1"
        ):
            models.mlperf_resnet8(width=width)
    for width in (0.01, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"mlperf_mobilenet_v1: width is {width}"):
            models.mlperf_mobilenet_v1(width=width)
