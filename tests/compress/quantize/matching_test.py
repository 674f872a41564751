"""Matching: a function is found where all of it is there, and nowhere else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import alone, grouping_of, op_of

from jaxmini.compress.quantize.matching import _traced, matched

SHAPE = (2, 5)
GELU = functools.partial(jax.nn.gelu, approximate=True)
FUNCTIONS = {
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "gelu": GELU,
    "hard_swish": jax.nn.hard_swish,
}


def found(function, wanted):
    """The names of the operations that compute ``wanted`` of the input, and the grouping."""
    grouping = grouping_of(alone(function), SHAPE)
    ops = matched(grouping, grouping.program.input, wanted)
    return None if ops is None else [op.name for op in ops], grouping


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_all_of_its_operations(name):
    function = FUNCTIONS[name]
    names, grouping = found(lambda x: 2 * function(x), function)
    assert names == [op.name for op in grouping.program.ops][:-1]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_is_taken_for_another(name):
    for other, function in FUNCTIONS.items():
        if other != name:
            names, _ = found(lambda x: FUNCTIONS[name](x) + 1, function)
            # log_softmax and softmax begin alike; a part is not the whole.
            assert names is None, (name, other)


def test_parameters_must_agree():
    assert found(functools.partial(jax.nn.softmax, axis=0), jax.nn.softmax)[0] is None
    leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.1)
    assert found(jax.nn.leaky_relu, leaky)[0] is None
    assert found(leaky, leaky)[0] is not None
    assert found(functools.partial(jax.nn.gelu, approximate=False), GELU)[0] is None


def test_what_is_read_elsewhere_is_no_function_any_more():
    def both(x):
        shifted = x - jax.lax.stop_gradient(x.max(-1, keepdims=True))
        e = jnp.exp(shifted)
        return e / e.sum(-1, keepdims=True), e

    assert found(lambda x: both(x)[0], lambda x: both(x)[0])[0] is not None
    assert found(lambda x: sum(both(x)), lambda x: both(x)[0])[0] is None


def test_the_result_may_be_read_by_many():
    names, _ = found(lambda x: jnp.tanh(x) * (jnp.tanh(x) + 1), jnp.tanh)
    assert names == ["tanh"]
    names, _ = found(lambda x: (lambda y: y * (y + 1))(jax.nn.softmax(x)), jax.nn.softmax)
    assert names[-1] == "div"


def test_operations_of_another_group_are_not_taken_again():
    _, grouping = found(lambda x: jnp.tanh(x) + 1, jnp.tanh)
    grouping.take(op_of(grouping.program, "tanh"))
    assert matched(grouping, grouping.program.input, jnp.tanh) is None


def test_a_function_is_traced_once_a_shape():
    single = np.dtype(np.float32)
    assert _traced(jnp.tanh, (3, 1), single) is _traced(jnp.tanh, (3, 1), single)
    assert _traced(jnp.tanh, (3, 1), single) is not _traced(jnp.tanh, (3, 2), single)
