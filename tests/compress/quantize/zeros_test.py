"""Zeros: sums and products with them are left out, what repeats numbers along the batch is looked through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize.program import Literal, Program, trace
from jaxmini.compress.quantize.zeros import is_zero
from jaxmini.model import Model

X = jnp.arange(12.0).reshape(2, 6) - 3.5
VARIABLES = {"bias": jnp.arange(6.0), "kernel": jnp.ones((6, 6))}


def program(function) -> Program:
    """The program of ``function(variables, x)``, seen to compute what it does."""
    model = Model(lambda key, x: VARIABLES, lambda v, x, **_: (function(v, x), {}))
    traced = trace(model, VARIABLES, X)
    expected = jax.jit(function)(VARIABLES, X)
    np.testing.assert_allclose(traced(VARIABLES, X), expected, rtol=1e-6, atol=1e-6)
    return traced


def names(function) -> list[str]:
    return [op.name for op in program(function).ops]


@pytest.mark.parametrize(
    ("function", "ops"),
    [
        (lambda v, x: jnp.exp(x + jnp.zeros((2, 6))), ["exp"]),
        (lambda v, x: jnp.exp(jnp.zeros((2, 6)) + x), ["exp"]),
        (lambda v, x: jnp.exp(x) + x * jnp.zeros((2, 6)), ["exp"]),
        (lambda v, x: jnp.exp(x) + jnp.zeros((2, 6)) @ v["kernel"], ["exp"]),
        (lambda v, x: jnp.zeros((2, 6)) - x, ["sub"]),
        (lambda v, x: x + jnp.ones((2, 6)), ["add"]),
        (lambda v, x: x * jnp.ones((2, 6)), ["mul"]),
    ],
)
def test_sums_and_products_with_zeros_are_left_out_and_nothing_else(function, ops):
    assert names(function) == ops


def test_the_output_may_be_zeros_alone():
    traced = program(lambda v, x: x * jnp.zeros((2, 6)))
    assert not traced.ops
    assert is_zero(traced.output)


def operand_shapes(function, name: str) -> list[tuple[int, ...]]:
    traced = program(function)
    (op,) = (op for op in traced.ops if op.name == name)
    return [traced.shape(value) for value in op.inputs]


def test_what_zeros_repeat_for_each_example_is_read_before():
    def dense(v, x):
        return jnp.exp(x) * (jnp.zeros((2, 6)) @ v["kernel"] + v["bias"].reshape(1, 6))

    assert operand_shapes(dense, "mul") == [(2, 6), (1, 6)]


def test_parts_along_another_axis_are_read_before_too():
    def gates(v, x):
        first, _ = jnp.split(jnp.zeros((2, 6)) + v["bias"].reshape(1, 6), 2, axis=1)
        return jnp.exp(x[:, :3]) + first

    assert operand_shapes(gates, "add")[1] == (1, 3) or operand_shapes(gates, "add")[0] == (1, 3)


def test_parts_along_the_batch_stay_repeated():
    def halves(v, x):
        first, _ = jnp.split(jnp.zeros((2, 6)) + v["bias"].reshape(1, 6), 2, axis=0)
        return jnp.exp(x[:1]) * first

    assert operand_shapes(halves, "mul") == [(1, 6), (1, 6)]


def test_what_depends_on_the_input_is_not_looked_through():
    def mean(v, x):
        return jnp.exp(x) * (jnp.zeros((2, 6)) + x.mean(0, keepdims=True))

    assert operand_shapes(mean, "mul") == [(2, 6), (2, 6)]


def test_only_floats_known_to_be_zero_are_zero():
    assert is_zero(Literal(np.zeros((2, 3), np.float32)))
    assert is_zero(Literal(-np.zeros((), np.float32)))
    assert not is_zero(3)
    for other in (np.zeros(2, np.int32), np.array([0.0, np.nan]), np.array([0.0, 1e-38])):
        assert not is_zero(Literal(other))
    assert not is_zero(Literal(jax.random.key(0)))


def test_a_key_that_nothing_reads_is_no_obstacle():
    def function(v, x):
        first, _ = jax.random.split(jax.random.key(0))
        return jnp.exp(x) if first.shape == () else x

    assert names(function) == ["exp"]
