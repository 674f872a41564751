"""Functions: each kind is what JAX computes, lies on the grid its kernel knows, and is found in a plan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import alone, planned

from jaxmini.compress.quantize import functions
from jaxmini.compress.quantize.functions import OPERATORS, Apply, leaky_relu
from jaxmini.compress.quantize.grid import HIGH, LOW

SHAPE = (3, 6)
KINDS = (
    functions.SOFTMAX,
    functions.LOG_SOFTMAX,
    functions.SIGMOID,
    functions.TANH,
    functions.GELU,
    functions.HARD_SWISH,
    leaky_relu(0.01),
    leaky_relu(0.3),
)
X = np.random.default_rng(0).normal(0, 3, SHAPE).astype(np.float32)


def groups(function, shape=SHAPE):
    plan = planned(alone(function), shape)
    return [group for group in plan.groups if isinstance(group, Apply)], plan


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.label)
def test_a_kind_is_found_and_computes_its_function(kind):
    (group,), plan = groups(kind.function)
    assert group.kind == kind
    assert group.name == f":{kind.label}"
    assert kind.operator in OPERATORS
    np.testing.assert_allclose(group([X]), kind.function(X), rtol=1e-5, atol=1e-6)
    assert plan.fixed == ({} if kind.grid is None else {group.site: kind.grid})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.grid], ids=lambda kind: kind.label)
def test_a_given_grid_holds_what_the_function_gives(kind):
    """From one end to the other, but for the last step before 1."""
    low, high = ((end - kind.grid.zero_point) * kind.grid.scale for end in (LOW, HIGH))
    values = np.asarray(kind.function(X))
    assert values.min() >= low
    assert values.max() <= high + kind.grid.scale


def test_each_slope_is_a_kind_of_its_own():
    assert leaky_relu(0.3) is leaky_relu(0.3)
    assert leaky_relu(0.3) != leaky_relu(0.01)
    (group,), _ = groups(functools.partial(jax.nn.leaky_relu, negative_slope=0.25))
    assert group.kind == leaky_relu(0.25)


def test_the_same_function_twice_is_two_groups():
    found, plan = groups(lambda x: jnp.tanh(jnp.tanh(x)))
    assert [group.name for group in found] == [":tanh", ":tanh_1"]
    assert set(plan.fixed) == {":tanh", ":tanh_1"}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (functools.partial(jax.nn.softmax, axis=0), "statistics over the batch"),
        (functools.partial(jax.nn.gelu, approximate=False), "the tanh form"),
        (lambda x: jnp.exp(x), "use jax.nn.softmax over the last axis"),
        (lambda x: jnp.log(jax.nn.softmax(x)), "leave log_softmax to the loss"),
    ],
)
def test_what_looks_like_one_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        planned(alone(function), SHAPE)


def test_an_addition_of_another_number_is_none():
    found, plan = groups(lambda x: x + 2)
    assert found == []
    assert [group.name for group in plan.groups] == [":scale"]
