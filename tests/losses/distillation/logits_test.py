"""Distillation of logits against float64 NumPy, and the published ways to get it wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.losses.distillation.logits import kl, kl_divergence


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def reference(student, teacher, temperature):
    """Float64 values [B], and the gradient T (q - p) of each row's value to the student [B, C]."""
    student, teacher = np.float64(student) / temperature, np.float64(teacher) / temperature
    log_q, log_p = log_softmax(student), log_softmax(teacher)
    rows = [
        sum(np.exp(p) * (p - q) for p, q in zip(*pair, strict=True))
        for pair in zip(log_p, log_q, strict=True)
    ]
    return temperature**2 * np.array(rows), temperature * (np.exp(log_q) - np.exp(log_p))


def logits(seed, shape=(4, 6), scale=3.0):
    """Student and teacher, float32."""
    return np.float32(scale * np.random.default_rng(seed).normal(size=(2, *shape)))


@jax.jit
def rows_and_gradients(student, teacher, temperature):
    rows, back = jax.vjp(
        functools.partial(kl_divergence, temperature=temperature), student, teacher
    )
    return rows, back(jnp.ones_like(rows))


def mean_loss(student, teacher, temperature=4.0, batch=None):
    signals = {"student": student, "teacher": teacher}
    return kl(temperature)(signals, {} if batch is None else batch)[0]


@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 2), (4, 6), (3, 50)]),
    scale=st.sampled_from([1e-3, 1.0, 10.0]),
    temperature=st.floats(0.2, 30.0),
)
def test_value_and_gradient_equal_the_formula(seed, shape, scale, temperature):
    student, teacher = logits(seed, shape, scale)
    rows, (gradient, _) = rows_and_gradients(student, teacher, temperature)
    value, slope = reference(student, teacher, np.float32(temperature).astype(float))
    tolerance = 1e-6 * temperature**2 * max(1.0, scale / temperature)
    np.testing.assert_allclose(rows, value, rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=tolerance)


def test_gradient_to_a_traced_temperature_equals_finite_differences():
    student, teacher = logits(0)
    gradient = jax.grad(lambda t: jnp.mean(kl_divergence(student, teacher, t)))(jnp.float32(3.0))
    step = 1e-5
    ends = [reference(student, teacher, 3.0 + sign * step)[0].mean() for sign in (1, -1)]
    assert float(gradient) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


def test_gradient_to_the_teacher_is_exactly_zero():
    """A teacher that learns from its student: KD_Lib."""
    _, (_, gradient) = rows_and_gradients(*logits(1), 4.0)
    np.testing.assert_array_equal(gradient, np.zeros((4, 6)))


def test_identical_networks_have_no_loss_and_no_gradient():
    student, _ = logits(2)
    rows, (gradient, _) = rows_and_gradients(student, student, 4.0)
    np.testing.assert_array_equal(rows, np.zeros(4))
    np.testing.assert_allclose(gradient, np.zeros((4, 6)), atol=1e-6)


def test_more_impossible_classes_change_nothing():
    """The mean over B * C instead of B makes the loss C times too small: deit#61."""
    student, teacher = logits(3)
    never = np.full((4, 6), -1e9, np.float32)
    value = mean_loss(student, teacher)
    padded = mean_loss(np.concatenate([student, never], 1), np.concatenate([teacher, never], 1))
    np.testing.assert_allclose(padded, value, rtol=1e-6)


def test_duplicating_the_batch_changes_nothing():
    """A sum over examples, or a mean over something else: sparseml#592, trl#4105."""
    student, teacher = logits(4)
    value = mean_loss(student, teacher)
    np.testing.assert_allclose(mean_loss(*np.concatenate([[student, teacher]] * 2, 1)), value, 1e-6)


def test_cutting_the_batch_changes_nothing():
    student, teacher = logits(5)
    whole = kl_divergence(student, teacher, 4.0)
    parts = [kl_divergence(student[i : i + 1], teacher[i : i + 1], 4.0) for i in range(4)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6)


def test_temperature_squared_keeps_the_size_of_the_gradient():
    """Without T^2 the gradient at T = 20 is hundreds of times smaller: distiller#122, keras-io#869."""
    student, teacher = logits(6, (64, 10), 1.0)
    norms = [
        float(jnp.linalg.norm(jax.grad(mean_loss)(student, teacher, temperature)))
        for temperature in (1.0, 20.0)
    ]
    assert 0.5 < norms[0] / norms[1] < 2.0


def test_the_teacher_matters_and_is_not_the_student():
    """The student's logits given twice: annotated_deep_learning_paper_implementations#66."""
    student, teacher = logits(7)
    value = mean_loss(student, teacher)
    assert float(jnp.abs(value - mean_loss(teacher, student))) > 1e-3
    assert float(jnp.abs(value - mean_loss(student, 2 * teacher))) > 1e-3


INFINITE = -np.inf


@pytest.mark.parametrize("temperature", [0.02, 1.0, 20.0])
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]),
        ([0.0, -1e30, -1e30], [0.0, -1e30, -1e30]),
        ([1.0, 2.0, INFINITE], [3.0, 2.0, INFINITE]),
        ([1.0, 2.0, 3.0], [INFINITE, 2.0, INFINITE]),
        ([5.0], [-5.0]),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient_are_finite_at_degenerate_logits(student, teacher, temperature, dtype):
    """Finite losses with NaN gradients: Soup#719, Liger#769, cls_KD#13."""
    student, teacher = jnp.array([student], dtype), jnp.array([teacher], dtype)
    rows, (gradient, _) = rows_and_gradients(student, teacher, temperature)
    assert rows.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert np.isfinite(rows).all()
    assert np.isfinite(np.float32(gradient)).all()


@pytest.mark.parametrize("garbage", [0.0, 1e4, np.nan])
def test_padded_rows_have_no_influence(garbage):
    student, teacher = logits(8)
    value, gradient = jax.value_and_grad(mean_loss)(student, teacher)
    padding = np.full((3, 6), garbage, np.float32)
    batch = {"mask": jnp.array([1.0] * 4 + [0.0] * 3)}
    padded_value, padded_gradient = jax.value_and_grad(
        lambda s: mean_loss(s, np.concatenate([teacher, padding]), batch=batch)
    )(np.concatenate([student, padding]))
    np.testing.assert_allclose(padded_value, value, rtol=1e-6)
    np.testing.assert_allclose(padded_gradient[:4], gradient, rtol=1e-6)
    if np.isfinite(garbage):
        np.testing.assert_array_equal(padded_gradient[4:], np.zeros((3, 6)))


def test_a_fully_padded_batch_gives_zero():
    student, teacher = logits(9)
    batch = {"mask": jnp.zeros(4)}
    value, gradient = jax.value_and_grad(lambda s: mean_loss(s, teacher, batch=batch))(student)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((4, 6)))


def test_unlabelled_rows_are_distilled_too():
    student, teacher = logits(10)
    batch = {"label": jnp.full(4, -1, jnp.int32)}
    np.testing.assert_array_equal(
        mean_loss(student, teacher, batch=batch), mean_loss(student, teacher)
    )


def test_metrics_are_the_value_and_the_agreement():
    signals = {
        "small": jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]),
        "large": jnp.array([[5.0, 0.0], [2.0, 1.0], [0.0, 3.0]]),
    }
    loss = kl(2.0, student="small", teacher="large")
    value, metrics = loss(signals, {"mask": jnp.array([1.0, 1.0, 0.0])})
    assert set(metrics) == {"kl", "agreement"}
    assert float(metrics["kl"]) == float(value)
    assert float(metrics["agreement"]) == 0.5


def test_default_temperature_is_that_of_the_cifar_recipes():
    assert kl() == kl(temperature=4.0)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_a_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=f"kl: temperature={temperature}"):
        kl(temperature)


def test_student_and_teacher_must_be_two_signals():
    with pytest.raises(ValueError, match="both the signal 'teacher'"):
        kl(student="teacher")


def test_a_missing_teacher_is_named():
    with pytest.raises(KeyError, match=r"kl reads the signal 'teacher'.*it provides student"):
        kl()({"student": jnp.zeros((2, 3))}, {})


@pytest.mark.parametrize("shape", [(2, 4), (1, 3), (2, 1)])
def test_different_shapes_are_refused_rather_than_broadcast(shape):
    with pytest.raises(ValueError, match=r"student \(2, 3\) and teacher"):
        kl_divergence(jnp.zeros((2, 3)), jnp.zeros(shape), 1.0)
