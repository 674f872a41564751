"""Vision transformers: tokens, shapes, dtypes and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini import models

KEY = jax.random.key(0)
PICTURES = np.random.default_rng(1).normal(size=(3, 8, 8, 3)).astype(np.float32)
SMALL = models.vit(5, patch=4, width=16, layers=2, heads=2)
APPLY = jax.jit(SMALL.apply)


def test_one_token_a_patch_and_one_for_the_class():
    params = jax.eval_shape(SMALL.init, KEY, jnp.zeros((1, 8, 12, 3)))["params"]
    assert params["positions"].shape == (1, 1 + 2 * 3, 16)
    assert params["embed"]["kernel"].shape == (4, 4, 3, 16)
    assert params["block0"]["mlp0"]["kernel"].shape == (16, 64)


def test_without_classes_it_returns_the_class_token():
    features = SMALL.clone(num_classes=None)
    out, _ = jax.eval_shape(features.init_with_output, KEY, PICTURES)
    assert (out.shape, out.dtype) == ((3, 16), jnp.float32)


def test_a_picture_is_read_with_its_positions(draw):
    variables = draw(SMALL, PICTURES)
    shifted = np.roll(PICTURES, 4, axis=1)  # The same patches in another order.
    positions = np.zeros_like(variables["params"]["positions"])
    without = {"params": {**variables["params"], "positions": positions}}
    np.testing.assert_allclose(APPLY(without, PICTURES), APPLY(without, shifted), atol=1e-5)
    moved = np.abs(APPLY(variables, PICTURES) - APPLY(variables, shifted))
    assert moved.max() > 1e-2


def test_examples_do_not_see_one_another(draw):
    variables = draw(SMALL, PICTURES)
    changed = PICTURES.copy()
    changed[[0, 2]] = 1.0
    before, after = APPLY(variables, PICTURES), APPLY(variables, changed)
    np.testing.assert_allclose(before[1], after[1], atol=1e-6)
    assert np.abs(before[0] - after[0]).max() > 1e-2


def test_bfloat16_stays_near_float32_and_returns_float32(draw):
    low = SMALL.clone(dtype="bfloat16")
    variables = draw(low, PICTURES)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    got, exact = jax.jit(low.apply)(variables, PICTURES), APPLY(variables, PICTURES)
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - exact).max() < 0.05


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
