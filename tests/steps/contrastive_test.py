"""Contrastive: two views as one batch, told apart again for the loss, whole and in order on every device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmini import axis, losses, steps
from tests.steps.listeners import listening, noted

SGD = optax.sgd(0.5)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(8, 4)).astype(np.float32)
BATCH = {"image": jnp.asarray(IMAGES), "id": jnp.arange(8)}
W = RNG.normal(size=(4, 3)).astype(np.float32)


def views(key, batch, view_index):
    """The second view is the negative of the first, plus one."""
    return batch["image"] if view_index == 0 else 1 - batch["image"]


def begun():
    return steps.start(SGD, jax.random.key(1), {"params": {"w": jnp.asarray(W)}})


def test_both_views_go_through_the_network_as_one_batch():
    network, heard = [], []
    step = steps.contrastive(noted(network), listening(heard), SGD, inputs=views)
    state, metrics = step(begun(), {}, BATCH)
    ((seen, train, _, _),) = network
    assert train
    np.testing.assert_array_equal(seen, np.concatenate([IMAGES, 1 - IMAGES]))
    assert set(metrics) == {"loss", "grad_norm", "view_0", "view_1"}
    np.testing.assert_allclose(metrics["view_0"], IMAGES @ W, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["view_1"], (1 - IMAGES) @ W, rtol=1e-5, atol=1e-6)
    assert heard[0] is BATCH
    # The sum of the embeddings of x and 1 - x: its gradient is the number of pictures, everywhere.
    np.testing.assert_allclose(state.params["w"], W - 0.5 * 8, rtol=1e-5)


def test_views_are_asked_for_by_number_with_the_base_key():
    asked = []

    def inputs(key, batch, view_index):
        asked.append((key, view_index))
        return batch["image"]

    state = begun()
    steps.contrastive(noted([]), listening([]), SGD, inputs=inputs)(state, {}, BATCH)
    assert [(key is state.key, number) for key, number in asked] == [(True, 0), (True, 1)]


def test_a_batch_without_a_view_compares_pictures_with_themselves():
    step = steps.contrastive(noted([]), losses.nt_xent(temperature=0.5), SGD)
    _, metrics = jax.jit(step)(begun(), {}, BATCH)
    z = (IMAGES @ W).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    both = np.concatenate([z, z])
    similar = np.exp(both @ both.T / 0.5)
    np.fill_diagonal(similar, 0)
    expected = np.mean(np.log(similar.sum(1)) - 1 / 0.5)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_under_pmap_negatives_are_those_of_all_devices_in_order():
    def ordered(signals, batch):
        rank = jnp.arange(8, dtype=jnp.float32)[:, None]
        return jnp.sum(rank * signals["view_0"] * signals["view_1"][::-1]), {}

    step = steps.contrastive(noted([]), ordered, SGD, inputs=views)
    expected, told = step(begun(), {}, BATCH)
    rows = jax.tree.map(lambda leaf: leaf.reshape(4, 2, *leaf.shape[1:]), BATCH)
    mapped = jax.pmap(step, axis.AXIS, in_axes=(None, None, 0), devices=jax.devices()[:4])
    state, metrics = mapped(begun(), {}, rows)
    np.testing.assert_allclose(metrics["loss"], np.full(4, told["loss"]), rtol=1e-5)
    for device in range(4):
        np.testing.assert_allclose(
            state.params["w"][device], expected.params["w"], rtol=1e-4, atol=1e-4
        )
