"""Products: two activations multiplied, with a batch of their own and without, and what mixes examples."""

import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import alone, planned

from jaxmini.compress.quantize.products import Product

RNG = np.random.default_rng(0)


def product_of(function, shape):
    plan = planned(alone(function), shape)
    (group,) = (group for group in plan.groups if isinstance(group, Product))
    return group, plan


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("equation", ["bqd,bkd->bqk", "bqd,bqk->bdk"])
def test_a_product_is_that_of_the_model(batch: int, equation: str):
    group, _ = product_of(lambda x: jnp.einsum(equation, x, jnp.tanh(x)), (batch, 4, 5))
    first, second = (RNG.integers(-9, 10, (batch, 4, 5)).astype(np.float32) for _ in range(2))
    result = group.product(first, second)
    expected = np.einsum(equation, first, second)
    np.testing.assert_array_equal(np.asarray(result).reshape(expected.shape), expected)


def test_a_batch_of_one_that_matmul_dropped_is_put_back():
    group, _ = product_of(lambda x: x[0] @ jnp.tanh(x[0]).T, (1, 4, 5))
    (_, _), (batch, _) = group.op.params["dimension_numbers"]
    assert batch == ()
    first, second = (RNG.integers(-9, 10, (4, 5)).astype(np.float32) for _ in range(2))
    contracted = group.op.params["dimension_numbers"][0][1]
    other = second if contracted == (1,) else second.T
    np.testing.assert_array_equal(group.product(first, other), first @ second.T)


def test_integers_are_added_up_as_such():
    group, _ = product_of(lambda x: jnp.einsum("bqd,bkd->bqk", x, jnp.tanh(x)), (2, 3, 4))
    ones = np.full((2, 3, 4), 127, np.int8)
    result = group.product(ones, ones, np.int32)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, np.full((2, 3, 3), 4 * 127 * 127))


def test_both_factors_have_their_grid():
    group, plan = product_of(lambda x: jnp.einsum("bqd,bkd->bqk", x, jnp.tanh(x)), (2, 3, 4))
    assert sorted(plan.site_of[value] for value in group.inputs) == [":tanh", "input"]
    assert group.name == ":matmul"


def test_examples_that_are_multiplied_with_one_another_are_refused():
    with pytest.raises(ValueError, match="activations of different examples.*bqd,bkd->bqk"):
        planned(alone(lambda x: jnp.einsum("bqd,cqd->bc", x, jnp.tanh(x))), (2, 3, 4))
