"""Supervised: softmax regression by hand, and who sees what of a batch."""

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
LABELS = RNG.integers(0, 3, 8).astype(np.int32)
BATCH = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
W = RNG.normal(size=(4, 3)).astype(np.float32)


def begun():
    return steps.start(SGD, jax.random.key(1), {"params": {"w": jnp.asarray(W)}})


def test_a_step_is_softmax_regression():
    step = steps.supervised(noted([]), losses.cross_entropy(), SGD)
    state, metrics = jax.jit(step)(begun(), {}, BATCH)
    logits = IMAGES.astype(np.float64) @ W
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    truth = np.eye(3)[LABELS]
    expected = W - 0.5 * IMAGES.T.astype(np.float64) @ (p - truth) / len(LABELS)
    np.testing.assert_allclose(state.params["w"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], -np.log(p[truth > 0]).mean(), rtol=1e-5)


def test_the_loss_hears_the_student_alone_and_sees_the_batch():
    network, heard, asked = [], [], []

    def inputs(key, batch, view_index):
        asked.append((key, batch, view_index))
        return 2 * batch["image"]

    step, before = steps.supervised(noted(network), listening(heard), SGD, inputs=inputs), begun()
    state, metrics = step(before, {"teacher": "not looked at"}, BATCH)
    ((key, batch, view_index),) = asked
    assert key is before.key
    assert batch is BATCH
    assert view_index == 0
    ((seen, train, dropout, _),) = network
    np.testing.assert_array_equal(seen, 2 * IMAGES)
    assert train
    assert dropout is not None
    assert len(heard) == 1
    assert heard[0] is BATCH
    assert set(metrics) == {"loss", "grad_norm", "student"}
    np.testing.assert_allclose(metrics["student"], 2 * IMAGES @ W, rtol=1e-5, atol=1e-6)
    assert state.collections == {"calls": {"n": 1}}


def test_a_loss_that_reads_another_signal_says_what_there_is():
    step = steps.supervised(noted([]), losses.kl(), SGD)
    with pytest.raises(KeyError, match=r"kl reads the signal 'teacher'.*student"):
        step(begun(), {}, BATCH)


def test_under_pmap_the_loss_sees_the_whole_batch_in_order():
    def ordered(signals, batch):
        rank = jnp.arange(8, dtype=jnp.float32)[:, None]
        labels = batch["label"].astype(jnp.float32)
        return jnp.sum(rank * signals["student"]) + jnp.sum(rank[:, 0] * labels), {}

    step = steps.supervised(noted([]), ordered, SGD)
    expected, told = step(begun(), {}, BATCH)
    rows = jax.tree.map(lambda leaf: leaf.reshape(4, 2, *leaf.shape[1:]), BATCH)
    mapped = jax.pmap(step, axis.AXIS, in_axes=(None, None, 0), devices=jax.devices()[:4])
    state, metrics = mapped(begun(), {}, rows)
    np.testing.assert_allclose(metrics["loss"], np.full(4, told["loss"]), rtol=1e-5)
    for device in range(4):
        np.testing.assert_allclose(
            state.params["w"][device], expected.params["w"], rtol=1e-5, atol=1e-5
        )
