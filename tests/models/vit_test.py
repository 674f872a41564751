"""Vision transformers: tokens, shapes, dtypes and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini import models

KEY = jax.random.key(0)
SMALL = models.vit(5, patch=4, width=16, layers=2, heads=2)


def test_one_token_a_patch_and_one_for_the_class():
    params = jax.eval_shape(SMALL.init, KEY, jnp.zeros((1, 8, 12, 3)))["params"]
    assert params["positions"].shape == (1, 1 + 2 * 3, 16)
    assert params["embed"]["kernel"].shape == (4, 4, 3, 16)
    assert params["block0"]["mlp0"]["kernel"].shape == (16, 64)


def test_without_classes_it_returns_the_class_token():
    x = jnp.zeros((2, 8, 8, 3))
    out = jax.eval_shape(lambda x: SMALL.clone(num_classes=None).init_with_output(KEY, x)[0], x)
    assert (out.shape, out.dtype) == ((2, 16), jnp.float32)


def test_a_picture_is_read_with_its_positions():
    x = jax.random.normal(KEY, (1, 8, 8, 3))
    variables = SMALL.init(KEY, x)
    shifted = jnp.roll(x, 4, axis=1)  # The same patches in another order.
    without = {"params": {**variables["params"], "positions": jnp.zeros((1, 5, 16))}}
    np.testing.assert_allclose(SMALL.apply(without, x), SMALL.apply(without, shifted), atol=1e-6)
    moved = np.abs(SMALL.apply(variables, x) - SMALL.apply(variables, shifted)).max()
    assert moved > 1e-5


def test_examples_do_not_see_one_another():
    x = jax.random.normal(KEY, (3, 8, 8, 3))
    variables = SMALL.init(KEY, x)
    alone = SMALL.apply(variables, x[1:2], train=True)
    np.testing.assert_allclose(SMALL.apply(variables, x)[1:2], alone, atol=1e-6)


def test_bfloat16_stays_near_float32_and_returns_float32():
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    low = SMALL.clone(dtype="bfloat16")
    variables = low.init(KEY, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    got = low.apply(variables, x)
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - SMALL.apply(variables, x)).max() < 0.02


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (models.vit_tiny(10), "patches of 16 px do not tile a picture of 24x32 px"),
        (models.vit(10, patch=8, width=20, heads=3), "width 20 is not a multiple of the 3 heads"),
    ],
)
def test_errors_name_the_sizes(net, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, KEY, jnp.zeros((1, 24, 32, 3)))
