"""Model: the bridge from linen modules, heads, and what a training call changes."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini import axis
from jaxmini.model import as_model, body_of, from_linen, train_argument, with_head


class Net(nn.Module):
    """Nothing but what a user would write: an own name for the training switch, dropout, BatchNorm."""

    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(use_running_average=deterministic, momentum=0.9)(x)
        return nn.Dropout(0.5, deterministic=deterministic)(x)


X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def test_from_linen_equals_the_module():
    model, module = from_linen(Net()), Net()
    variables = model.init(jax.random.key(0), X)
    outputs, updates = model.apply(variables, X)
    np.testing.assert_array_equal(outputs, module.apply(variables, X))
    assert updates == {}


def test_training_updates_statistics_and_draws_dropout():
    model = from_linen(Net())
    variables = model.init(jax.random.key(0), X)
    first, updates = model.apply(variables, X, train=True, key=jax.random.key(1))
    again, _ = model.apply(variables, X, train=True, key=jax.random.key(1))
    other, _ = model.apply(variables, X, train=True, key=jax.random.key(2))
    assert set(updates) == {"batch_stats"}
    mean = updates["batch_stats"]["BatchNorm_0"]["mean"]
    assert np.abs(mean).max() > 0
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    "name", ["train", "training", "is_training", "deterministic", "use_running_average"]
)
def test_every_usual_name_of_the_training_switch(name: str):
    source = f"def call(self, x, {name}=None):\n    return (x, {name})"
    scope: dict = {}
    exec(source, scope)
    module = type("M", (nn.Module,), {"__call__": scope["call"]})()
    assert train_argument(module) == name
    model = from_linen(module)
    (_, training), _ = model.apply({}, X, train=True)
    (_, inference), _ = model.apply({}, X, train=False)
    assert training is not inference
    assert training is (name in ("train", "training", "is_training"))


def test_a_module_without_a_switch():
    model = from_linen(nn.Dense(3))
    variables = model.init(jax.random.key(0), X)
    outputs, updates = model.apply(variables, X, train=True)
    assert outputs.shape == (6, 3)
    assert updates == {}


def test_with_head_composes_and_keeps_what_only_one_part_changed():
    model = with_head(Net(), nn.BatchNorm(use_running_average=True))
    variables = model.init(jax.random.key(0), X)
    assert set(variables["params"]) == {"body", "head"}
    outputs, updates = model.apply(variables, X, train=True, key=jax.random.key(1))
    assert outputs.shape == (6, 8)
    assert set(updates["batch_stats"]) == {"body", "head"}
    np.testing.assert_array_equal(
        updates["batch_stats"]["head"]["mean"], variables["batch_stats"]["head"]["mean"]
    )
    body = body_of(variables)
    features, _ = from_linen(Net()).apply(body, X)
    head = {name: tree["head"] for name, tree in variables.items()}
    expected = nn.BatchNorm(use_running_average=True).apply(head, features)
    np.testing.assert_allclose(model.apply(variables, X)[0], expected, rtol=1e-6)


def test_body_of_a_model_of_one_piece_is_none():
    assert body_of(from_linen(Net()).init(jax.random.key(0), X)) is None


def test_batch_norm_sees_the_whole_batch_under_pmap():
    """Statistics of each device alone would differ: synchronised BatchNorm is not optional."""
    model = from_linen(Net())
    variables = model.init(jax.random.key(0), X)

    def statistics(x):
        return model.apply(variables, x, train=True, key=jax.random.key(1))[1]["batch_stats"]

    whole = statistics(X)
    mapped = jax.pmap(statistics, axis.AXIS)(X.reshape(3, 2, 5))
    for expected, got in zip(jax.tree.leaves(whole), jax.tree.leaves(mapped), strict=True):
        np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got[0], got[2])


def test_from_linen_refuses_a_class_and_says_so():
    with pytest.raises(TypeError, match=r"add \(\) to the class"):
        from_linen(Net)
    with pytest.raises(TypeError, match="a flax.linen module"):
        as_model(3)
