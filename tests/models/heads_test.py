"""Heads: where BatchNorm is, widths, and how they sit on a body."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini import models
from jaxmini.model import with_head

KEY = jax.random.key(0)
FEATURES = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (models.projection_head(3), {"dense0": (6, 6), "dense1": (6, 3)}),
        (models.projection_head(3, hidden=8), {"dense0": (6, 8), "dense1": (8, 3)}),
        (
            models.projection_head(3, hidden=8, layers=3),
            {"dense0": (6, 8), "dense1": (8, 8), "dense2": (8, 3)},
        ),
        (models.projection_head(3, layers=1), {"dense0": (6, 3)}),
        (models.classifier(3), {"dense": (6, 3)}),
    ],
)
def test_layers_of_a_head(head, expected):
    params = jax.eval_shape(head.init, KEY, FEATURES)["params"]
    dense = {name: tree["kernel"].shape for name, tree in params.items() if "kernel" in tree}
    assert dense == expected
    norms = [name for name in params if name.startswith("bn")]
    assert len(norms) == len(expected) - 1


def test_the_projector_is_dense_norm_relu_dense(draw):
    head = models.projection_head(3, hidden=5)
    variables = draw(head, FEATURES)
    train = functools.partial(head.apply, train=True, mutable=["batch_stats"])
    got, updates = jax.jit(train)(variables, FEATURES)
    params, norm = variables["params"], variables["params"]["bn0"]
    x = np.asarray(FEATURES, np.float64) @ np.asarray(params["dense0"]["kernel"], np.float64)
    expected = 0.9 * variables["batch_stats"]["bn0"]["mean"] + 0.1 * x.mean(0)
    np.testing.assert_allclose(updates["batch_stats"]["bn0"]["mean"], expected, atol=1e-6)
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * norm["scale"] + norm["bias"]
    x = np.maximum(x, 0.0)
    expected = x @ np.asarray(params["dense1"]["kernel"]) + np.asarray(params["dense1"]["bias"])
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_head_on_a_body_of_features():
    model = with_head(models.small_resnet(), models.projection_head(32))
    variables = jax.eval_shape(model.init, KEY, jnp.zeros((2, 28, 28, 1)))
    assert shapes(variables["params"]["head"]["dense1"]["kernel"]) == (48, 32)
    assert set(variables["batch_stats"]) == {"body", "head"}


def test_a_head_of_no_layers_is_refused():
    with pytest.raises(ValueError, match="layers=0, expected at least 1"):
        models.projection_head(layers=0)
