"""Distill: the student learns, the teacher answers as it would in use, on the view that the student sees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmini import losses, steps
from tests.steps.listeners import listening, noted

SGD = optax.sgd(0.5)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(8, 4)).astype(np.float32)
BATCH = {"image": jnp.asarray(IMAGES)}
W, TAUGHT = (RNG.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
FROZEN = {"params": {"w": jnp.asarray(TAUGHT)}, "batch_stats": {}}


def begun(w=W):
    return steps.start(SGD, jax.random.key(1), {"params": {"w": jnp.asarray(w)}})


def softmax(x):
    p = np.exp(x - x.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def test_a_step_is_the_gradient_of_hinton_et_al():
    step = steps.distill(noted([]), noted([]), losses.kl(temperature=2.0), SGD)
    state, _ = jax.jit(step)(begun(), FROZEN, BATCH)
    x = IMAGES.astype(np.float64)
    # T^2 of the loss and 1/T of the softmax leave T times the difference of the softened answers.
    difference = softmax(x @ W / 2) - softmax(x @ TAUGHT / 2)
    expected = W - 0.5 * 2 * x.T @ difference / len(x)
    np.testing.assert_allclose(state.params["w"], expected, rtol=1e-5, atol=1e-6)


def test_one_view_is_shared_and_the_teacher_does_not_train():
    student, teacher, heard, asked = [], [], [], []

    def inputs(key, batch, view_index):
        asked.append(view_index)
        return 3 * batch["image"]

    step = steps.distill(noted(student), noted(teacher), listening(heard), SGD, inputs=inputs)
    state, metrics = step(begun(), FROZEN, BATCH)
    assert asked == [0]
    ((given, train, key, weights),) = teacher
    assert not train
    assert key is None
    assert weights is FROZEN["params"]["w"]
    ((seen, train, key, _),) = student
    assert seen is given
    assert train
    assert key is not None
    assert set(metrics) == {"loss", "grad_norm", "student", "teacher"}
    np.testing.assert_allclose(metrics["student"], 3 * IMAGES @ W, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["teacher"], 3 * IMAGES @ TAUGHT, rtol=1e-5, atol=1e-6)
    assert heard[0] is BATCH
    assert state.collections == {"calls": {"n": 1}}  # the student's own


def test_nothing_reaches_the_teacher():
    step = steps.distill(noted([]), noted([]), listening([]), SGD)
    grads = jax.grad(lambda frozen: step(begun(), frozen, BATCH)[1]["loss"])(FROZEN)
    np.testing.assert_array_equal(grads["params"]["w"], np.zeros_like(TAUGHT))


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    step = steps.distill(noted([]), noted([]), losses.kl(temperature=3.0), SGD)
    state, metrics = step(begun(TAUGHT), FROZEN, BATCH)
    assert metrics["loss"] == pytest.approx(0, abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(state.params["w"], TAUGHT, atol=1e-6)
