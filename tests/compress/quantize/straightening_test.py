"""Straightening: the same numbers, one transpose fewer, and others left as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quantize_functions import alone, program_of

from jaxmini.compress.quantize.straightening import straightened

SHAPE = (3, 4, 2, 5)
X = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def softmax_beside(x):
    """As ``jax.vmap`` leaves jax.nn.softmax: the maximum is transposed after it is taken."""
    largest = jnp.maximum(-jnp.inf, x.max(3)).transpose(2, 0, 1)
    moved = x.transpose(2, 0, 1, 3)
    powers = jnp.exp(moved - largest[..., None])
    return powers / powers.sum(-1, keepdims=True)


def names(program):
    return [op.name for op in program.ops]


def computed(program, x=X):
    return np.asarray(jax.jit(program)({"params": {}}, x))


@pytest.mark.parametrize(
    "function",
    [
        softmax_beside,
        lambda x: x.transpose(1, 3, 0, 2) - x.max(0).transpose(0, 2, 1)[:, :, None],
        lambda x: x.transpose(3, 2, 1, 0) - x.max((1, 3)).transpose(1, 0)[None, :, None],
    ],
)
def test_the_maximum_is_taken_behind_the_transpose(function):
    program = program_of(alone(function), SHAPE)
    found = straightened(program)
    np.testing.assert_array_equal(computed(found), computed(program))
    assert names(program).count("transpose") == 2
    assert names(found).count("transpose") == 1
    assert names(found).index("transpose") < names(found).index("reduce_max")
    for op in found.ops:
        inside = op.bind(*(jnp.zeros(found.shape(v), jnp.float32) for v in op.inputs))
        assert inside[0].shape == found.shape(op.outputs[0])


KEPT = {
    "alone": lambda x: x.max(3).transpose(2, 0, 1),
    "in_another_order": lambda x: (
        x.transpose(2, 0, 1, 3) - x.max(3).transpose(2, 1, 0)[:, :3, :3, None]
    ),
    "read_twice": lambda x: (
        x.transpose(2, 0, 1, 3) - x.max(3).transpose(2, 0, 1)[..., None] + x.max((1, 2, 3)).sum()
    ),
    "changed_before": lambda x: (
        x.transpose(2, 0, 1, 3) - jnp.tanh(x.max(3)).transpose(2, 0, 1)[..., None]
    ),
    "not_transposed": lambda x: x - x.max(3, keepdims=True),
}


@pytest.mark.parametrize("name", KEPT)
def test_others_stay_as_they_are(name):
    shape = (3, 3, 2, 5) if name == "in_another_order" else SHAPE
    program = program_of(alone(KEPT[name]), shape)
    assert straightened(program).ops == program.ops


def pooled(x, divide):
    """As a pool of sequences is traced, with what is done to its sums."""
    sums = lax.reduce_window(x, np.float32(0), lax.add, (1, 2, 1), (1, 2, 1), "VALID")
    return divide(sums)


@pytest.mark.parametrize("divide", [lambda x: x / 2.0, lambda x: x * 0.5])
def test_the_sums_of_a_pool_are_divided_before_they_are_moved(divide):
    program = program_of(alone(lambda x: pooled(x, divide)), (3, 4, 5))
    found = straightened(program)
    np.testing.assert_array_equal(computed(found, X[:, :, 0]), computed(program, X[:, :, 0]))
    moves, kinds = ["reshape", "reduce_window_sum"], names(program)
    assert kinds[:2] == moves
    assert kinds[2] == "reshape"
    assert names(found) == [*moves, kinds[3], "reshape"]
    assert [found.shape(op.outputs[0]) for op in found.ops[1:]] == [
        *((3, 1, 2, 5), (3, 1, 2, 5), (3, 2, 5))
    ]


@pytest.mark.parametrize("divide", [lambda x: x / (x + 1), lambda x: 2.0 / x, jnp.tanh])
def test_sums_that_are_not_divided_by_a_number_stay(divide):
    program = program_of(alone(lambda x: pooled(x, divide)), (3, 4, 5))
    assert straightened(program).ops == program.ops
