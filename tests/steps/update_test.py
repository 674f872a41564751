"""Update: one optimizer update by hand, what a model tells besides its outputs, and the keys of training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmini import axis
from jaxmini.model import FIGURES, PENALTIES, Model
from jaxmini.state import State
from jaxmini.steps.update import images_as_they_are, start, train_forward, update

W = np.float32([[1, -2], [3, 0.5]])
G = np.float32([[0.25, 1], [-4, 2]])
SGD = optax.sgd(0.5)


def begun(optimizer: optax.GradientTransformation = SGD) -> State:
    variables = {
        "params": {"w": jnp.asarray(W)},
        "count": {"n": jnp.int32(0)},
        "kept": {"k": jnp.float32(3)},
    }
    return start(optimizer, jax.random.key(3), variables)


def linear(params):
    """Its gradient is G, whatever the parameters."""
    return jnp.sum(params["w"] * G), ({}, {})


def test_the_first_state_parts_parameters_from_the_rest():
    state = begun(optax.adam(0.1))
    assert (int(state.step), state.step.dtype) == (0, jnp.int32)
    assert set(state.params) == {"w"}
    assert set(state.collections) == {"count", "kept"}
    assert set(state.variables) == {"params", "count", "kept"}
    assert jax.tree.structure(state.opt_state[0].mu) == jax.tree.structure(state.params)
    assert state.carry == {}


@pytest.mark.parametrize("carry", [{"ema": 1.0}, np.zeros(3, np.float32), np.float32(0), ()])
def test_what_an_objective_carries_is_kept_whatever_it_is(carry):
    state = start(SGD, jax.random.key(0), {"params": {}}, carry)
    assert state.carry is carry


def test_an_update_is_gradient_descent():
    def objective(params):
        loss, _ = linear(params)
        return loss, ({"count": {"n": jnp.int32(7)}}, {"told": jnp.float32(2)})

    before = begun()
    after, metrics = update(before, objective, SGD)
    np.testing.assert_allclose(after.params["w"], W - 0.5 * G, rtol=1e-6)
    assert int(after.step) == 1
    assert after.collections["count"]["n"] == 7
    assert after.collections["kept"] == {"k": 3.0}
    assert after.key is before.key
    np.testing.assert_array_equal(before.params["w"], W)
    assert set(metrics) == {"loss", "grad_norm", "told"}
    np.testing.assert_allclose(metrics["loss"], np.sum(W * G), rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(np.sum(G**2)), rtol=1e-6)


def test_the_optimizer_goes_on_from_its_state():
    """Two updates of the same gradient: momentum makes the second the larger."""
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = begun(optimizer)
    for expected in (0.1, 0.1 + 0.19):
        state, _ = update(state, linear, optimizer)
        np.testing.assert_allclose(state.params["w"], W - expected * G, rtol=1e-5)


def test_penalties_are_in_the_loss_and_its_gradient_and_all_is_told():
    def objective(params):
        loss, _ = linear(params)
        norm = jnp.sum(params["w"] ** 2)
        penalties = {"decay": norm, "block": {"clip": jnp.float32(0.25)}}
        figures = {"share": jnp.float32(0.75), "block": {"frozen": jnp.float32(0.5)}}
        changed = {PENALTIES: penalties, FIGURES: figures, "count": {"n": jnp.int32(1)}}
        return loss, (changed, {"share": jnp.float32(9)})

    after, metrics = update(begun(), objective, SGD)
    norm = np.sum(W**2)
    np.testing.assert_allclose(metrics.pop("loss"), np.sum(W * G) + norm + 0.25, rtol=1e-6)
    np.testing.assert_allclose(after.params["w"], W - 0.5 * (G + 2 * W), rtol=1e-6)
    assert set(after.collections) == {"count", "kept"}
    del metrics["grad_norm"]
    told = {name: float(value) for name, value in metrics.items()}
    # What the objective says of a name goes before what the model does.
    assert told == {"decay": norm, "block/clip": 0.25, "share": 9.0, "block/frozen": 0.5}


def test_devices_that_see_a_part_each_make_the_update_of_the_whole():
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)

    def one(state, rows):
        def objective(params):
            return jnp.mean((rows @ params["w"]) ** 2), ({}, {})

        return update(state, objective, SGD)

    whole, told = one(begun(), x.reshape(12, 2))
    mapped = jax.pmap(one, axis.AXIS, in_axes=(None, 0), devices=jax.devices()[:4])
    parts, metrics = mapped(begun(), x)
    for device in range(4):
        np.testing.assert_allclose(parts.params["w"][device], whole.params["w"], rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"][device], told["loss"], rtol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm"][device], told["grad_norm"], rtol=1e-5)


def keyed(variables, inputs, *, train=False, key=None):
    """Outputs that are the key it got, and what else it was called with."""
    assert train
    seen = {"params": variables["params"], "count": variables["count"]}
    return jax.random.key_data(key), {"seen": seen}


KEYED = Model(init=None, apply=keyed)


def test_a_forward_pass_gets_other_parameters_and_the_key_of_its_update():
    state = begun()
    for step in (0, 5):
        key, changed = train_forward(KEYED, state.replace(step=jnp.int32(step)), {"w": 8}, None)
        expected = jax.random.fold_in(state.key, step)
        np.testing.assert_array_equal(key, jax.random.key_data(expected))
        assert changed == {"seen": {"params": {"w": 8}, "count": {"n": 0}}}


def test_each_device_has_a_key_of_its_own():
    def keys(state, _):
        return train_forward(KEYED, state, state.params, None)[0]

    devices = jax.devices()[:3]
    mapped = jax.pmap(keys, axis.AXIS, in_axes=(None, 0), devices=devices)
    found = mapped(begun(), jnp.arange(3))
    expected = [
        jax.random.key_data(jax.random.fold_in(jax.random.fold_in(begun().key, 0), index))
        for index in range(3)
    ]
    np.testing.assert_array_equal(found, expected)


def test_pictures_without_a_view_are_those_of_the_batch():
    image = jnp.ones((2, 3))
    assert images_as_they_are(jax.random.key(0), {"image": image}, 1) is image
