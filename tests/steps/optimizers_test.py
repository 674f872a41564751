"""Optimizers: the schedule's shape, decay of kernels only, and refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmini import steps

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}


@pytest.mark.parametrize("make", [steps.sgd, steps.adamw])
@jax.numpy_dtype_promotion("standard")  # optax's Adam raises a float to an integer power
def test_decay_moves_kernels_only(make):
    optimizer = make(0.1, weight_decay=0.5, warmup=0.0)(10)
    state, params = optimizer.init(PARAMS), PARAMS
    zero = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    for _ in range(3):
        updates, state = optimizer.update(zero, state, params)
        params = optax.apply_updates(params, updates)
    assert (params["kernel"] < 1).all()
    np.testing.assert_array_equal(params["bias"], PARAMS["bias"])


def test_the_rate_rises_then_falls_to_zero():
    optimizer = steps.sgd(1.0, momentum=0.0, weight_decay=0.0, warmup=0.2)(10)
    state, sizes = optimizer.init(PARAMS), []
    for _ in range(11):
        updates, state = optimizer.update(PARAMS, state, PARAMS)
        sizes.append(-float(updates["bias"][0]))
    assert np.argmax(sizes) == 2
    assert sizes[0] > 0
    assert sizes[-1] == pytest.approx(0, abs=1e-6)


def test_clip_bounds_the_gradient():
    optimizer = steps.sgd(1.0, momentum=0.0, weight_decay=0.0, warmup=0.0, clip=1e-3)(10)
    state = optimizer.init(PARAMS)
    _, state = optimizer.update(PARAMS, state, PARAMS)
    updates, _ = optimizer.update(PARAMS, state, PARAMS)
    assert float(optax.tree.norm(updates)) <= 1e-3 * 1.0001


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate must be positive and finite, got inf"),
        ({"learning_rate": math.nan}, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": 0.1, "warmup": 1.0}, "warmup"),
        ({"learning_rate": 0.1, "warmup": math.nan}, "warmup"),
        ({"learning_rate": 0.1, "weight_decay": -1.0}, "weight_decay"),
        ({"learning_rate": 0.1, "weight_decay": math.inf}, "weight_decay must be finite"),
        ({"learning_rate": 0.1, "weight_decay": math.nan}, "weight_decay must be finite"),
        ({"learning_rate": 0.1, "clip": 0.0}, "clip"),
        ({"learning_rate": 0.1, "clip": math.inf}, "clip must be positive and finite, or None"),
    ],
)
@pytest.mark.parametrize("make", [steps.sgd, steps.adamw])
def test_impossible_hyper_parameters_are_refused(make, fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, math.nan])
def test_momentum_is_a_share(momentum):
    with pytest.raises(ValueError, match=rf"sgd: momentum must be in \[0, 1\), got {momentum}"):
        steps.sgd(0.1, momentum=momentum)
