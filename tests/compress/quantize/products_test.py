"""Products: two activations multiplied, with a batch of their own and without, and what mixes examples."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_checks import check
from quantize_functions import alone, planned

from jaxmini.compress.quantize.products import Product

RNG = np.random.default_rng(0)


def product_of(function, shape):
    plan = planned(alone(function), shape)
    (group,) = (group for group in plan.groups if isinstance(group, Product))
    return group, plan


def by_hand(group, first, second):
    """One product of matrices after the other."""
    (lhs, rhs), (batch, _) = group.op.params["dimension_numbers"]
    if not batch:
        return np.tensordot(first, second, (lhs, rhs))
    inner = [axis - 1 for axis in lhs], [axis - 1 for axis in rhs]
    return np.stack([np.tensordot(a, b, inner) for a, b in zip(first, second, strict=True)])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("equation", ["bqd,bkd->bqk", "bqd,bqk->bdk"])
def test_a_product_is_that_of_the_model(batch: int, equation: str):
    group, plan = product_of(lambda x: jnp.einsum(equation, x, jnp.tanh(x)), (batch, 4, 5))
    shapes = [plan.program.shape(value) for value in group.inputs]
    first, second = (RNG.integers(-9, 10, shape).astype(np.float32) for shape in shapes)
    result = group.product(first, second)
    assert result.shape == plan.program.shape(group.outputs[0])
    np.testing.assert_array_equal(result, by_hand(group, first, second))


def test_a_batch_of_one_that_matmul_dropped_is_put_back():
    """And taken away again: what a converter sees is a product of a batch."""
    group, plan = product_of(lambda x: x @ jnp.tanh(x).swapaxes(1, 2), (1, 4, 5))
    assert group.op.params["dimension_numbers"][1] == ((), ())
    shapes = [plan.program.shape(value) for value in group.inputs]
    first, second = (RNG.integers(-9, 10, shape).astype(np.float32) for shape in shapes)
    np.testing.assert_array_equal(group.product(first, second), by_hand(group, first, second))
    equations = jax.make_jaxpr(group.product)(first, second).eqns
    (product,) = (e for e in equations if e.primitive.name == "dot_general")
    assert product.params["dimension_numbers"][1] == ((0,), (0,))


def test_integers_are_added_up_as_such():
    group, _ = product_of(lambda x: jnp.einsum("bqd,bkd->bqk", x, jnp.tanh(x)), (2, 3, 4))
    ones = np.full((2, 3, 4), 127, np.int8)
    result = group.product(ones, ones, np.int32)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, np.full((2, 3, 3), 4 * 127 * 127))


def test_both_factors_have_their_grid():
    group, plan = product_of(lambda x: jnp.einsum("bqd,bkd->bqk", x, jnp.tanh(x)), (2, 3, 4))
    assert sorted(plan.site_of[value] for value in group.inputs) == [":tanh", "input"]
    assert group.name == "bqd,bkd->bqk:matmul"  # einsum names its equation


def test_examples_that_are_multiplied_with_one_another_are_refused():
    with pytest.raises(ValueError, match="activations of different examples.*bqd,bkd->bqk"):
        planned(alone(lambda x: jnp.einsum("bqd,cqd->bc", x, jnp.tanh(x))), (2, 3, 4))


def test_examples_that_stand_behind_another_axis_are_followed():
    def groups_first(x):
        moved = jnp.tanh(x).transpose(2, 0, 1, 3)
        return jnp.einsum("gbqd,gbkd->gbqk", moved, moved).transpose(1, 0, 2, 3)

    group, plan = product_of(groups_first, (3, 4, 2, 5))
    assert group.op.params["dimension_numbers"][1] == ((0, 1), (0, 1))
    assert plan.program.shape(plan.output) == (3, 2, 4, 4)


def test_examples_behind_an_axis_of_their_size_are_not_taken_for_it():
    """Here the first axis of both is that of the places, and every example meets every other."""

    def mixed(x):
        moved = x.transpose(1, 0, 2)
        return jnp.einsum("qbd,qcd->bcq", moved, jnp.tanh(moved))

    with pytest.raises(
        ValueError, match="activations of different examples.*the axis of the examples"
    ):
        planned(alone(mixed), (3, 3, 4))


class Attends(nn.Module):
    """JAX's own attention, which it maps over groups of heads by ``jax.vmap``."""

    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x):
        query = nn.DenseGeneral((self.heads, 4), name="query")(x)
        key, value = (nn.DenseGeneral((2, 4), name=name)(x) for name in ("key", "value"))
        y = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        return nn.DenseGeneral(6, axis=(-2, -1), name="out")(y)


@pytest.mark.parametrize(
    ("heads", "causal", "backend"),
    [
        (2, False, "litert"),
        (2, True, "litert"),
        (4, False, "litert"),  # two heads share their keys
        pytest.param(4, True, "jax2tf", marks=pytest.mark.slow),
    ],
)
def test_jaxs_own_attention_is_in_the_file(heads: int, causal: bool, backend: str):
    x = jax.random.normal(jax.random.key(0), (6, 5, 8))
    plan, _ = check(Attends(heads, causal), x, backend=backend, most=6)  # a flipped tie travels
    kinds = [group.name.rpartition(":")[2] for group in plan.groups]
    assert kinds.count("matmul") == 2
    assert kinds.count("softmax") == 1
    assert kinds.count("mask") == causal
    assert not plan.islands
