"""Cross-entropy against float64 NumPy, and the rows that must not count."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.losses.classification import cross_entropy, softmax_cross_entropy


def reference(logits, labels, smoothing):
    """Float64 values [B], and the gradient q - p of each row's value to the logits [B, C]."""
    logits = np.float64(logits)
    count = logits.shape[1]
    target = np.eye(count)[labels] if np.ndim(labels) == 1 else np.float64(labels)
    target = (1 - smoothing) * target + smoothing / count
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = [
        -sum(p * q for p, q in zip(*pair, strict=True))
        for pair in zip(target, log_probs, strict=True)
    ]
    return np.array(rows), np.exp(log_probs) - target


def example(seed, shape=(5, 4), scale=3.0):
    random = np.random.default_rng(seed)
    logits = np.float32(scale * random.normal(size=shape))
    labels = random.integers(0, shape[1], shape[0]).astype(np.int32)
    probabilities = np.float32(random.dirichlet(np.ones(shape[1]), shape[0]))
    return logits, labels, probabilities


def rows_and_gradient(logits, labels, smoothing=0.0):
    rows, back = jax.vjp(lambda logits: softmax_cross_entropy(logits, labels, smoothing), logits)
    return rows, back(jnp.ones_like(rows))[0]


def mean_loss(logits, batch, smoothing=0.0):
    return cross_entropy(smoothing)({"student": logits}, batch)[0]


@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 2), (5, 4), (3, 50)]),
    scale=st.sampled_from([1e-3, 1.0, 10.0]),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    soft=st.booleans(),
)
def test_value_and_gradient_equal_the_formula(seed, shape, scale, smoothing, soft):
    logits, labels, probabilities = example(seed, shape, scale)
    labels = probabilities if soft else labels
    rows, gradient = rows_and_gradient(logits, labels, smoothing)
    value, slope = reference(logits, labels, smoothing)
    np.testing.assert_allclose(rows, value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_class_and_its_one_hot_are_the_same_label(smoothing):
    logits, labels, _ = example(0)
    hard = rows_and_gradient(logits, labels, smoothing)
    soft = rows_and_gradient(logits, np.eye(4, dtype=np.float32)[labels], smoothing)
    np.testing.assert_allclose(hard[0], soft[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(hard[1], soft[1], rtol=1e-6, atol=1e-6)


def test_label_smoothing_gives_every_class_an_equal_share():
    """epsilon / C for all, not epsilon / (C - 1) for the others: at the optimum q = p."""
    target = np.array([0.1 / 4, 0.1 / 4, 0.9 + 0.1 / 4, 0.1 / 4])
    _, gradient = rows_and_gradient(
        np.float32(np.log(target))[None], jnp.array([2], jnp.int32), 0.1
    )
    np.testing.assert_allclose(gradient, np.zeros((1, 4)), atol=1e-7)


def test_smoothing_equals_optax():
    logits, labels, _ = example(1)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.1)
    expected = optax.softmax_cross_entropy(jnp.asarray(logits), targets)
    np.testing.assert_allclose(softmax_cross_entropy(logits, labels, 0.1), expected, rtol=1e-5)


def test_one_value_a_row():
    """logp[..., labels] is [B, B]: gnosis' evaluation."""
    logits, labels, _ = example(2)
    assert softmax_cross_entropy(logits, labels).shape == (5,)


def test_more_impossible_classes_change_nothing():
    logits, labels, _ = example(3)
    never = np.full((5, 3), -1e30, np.float32)
    wide = softmax_cross_entropy(np.concatenate([logits, never], 1), labels)
    np.testing.assert_allclose(wide, softmax_cross_entropy(logits, labels), rtol=1e-6)


def test_cutting_or_duplicating_the_batch_changes_nothing():
    logits, labels, _ = example(4)
    whole = softmax_cross_entropy(logits, labels)
    parts = [softmax_cross_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6)
    doubled = mean_loss(np.concatenate([logits] * 2), {"label": jnp.asarray(np.tile(labels, 2))})
    np.testing.assert_allclose(
        doubled, mean_loss(logits, {"label": jnp.asarray(labels)}), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "row",
    [[0.0, 0.0, 0.0], [1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, -1e30, -1e30], [1.0, -np.inf, 2.0]],
)
@pytest.mark.parametrize("label", [0, [1.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
def test_value_and_gradient_are_finite_at_degenerate_logits(row, label, dtype):
    """0 * log 0: optax#473."""
    rows, gradient = rows_and_gradient(jnp.array([row], dtype), jnp.array([label]))
    assert rows.dtype == jnp.float32
    assert np.isfinite(rows).all()
    assert np.isfinite(np.float32(gradient)).all()


def test_unlabelled_rows_have_no_influence():
    """ignore_index accepted and unused: Liger-Kernel#974."""
    logits, labels, _ = example(5)
    value, gradient = jax.value_and_grad(mean_loss)(logits, {"label": jnp.asarray(labels)})
    more = np.concatenate([logits, example(6)[0]])
    unlabelled = {"label": jnp.asarray(np.concatenate([labels, np.full(5, -1, np.int32)]))}
    padded_value, padded_gradient = jax.value_and_grad(mean_loss)(more, unlabelled)
    np.testing.assert_allclose(padded_value, value, rtol=1e-6)
    np.testing.assert_allclose(padded_gradient[:5], gradient, rtol=1e-6)
    np.testing.assert_array_equal(padded_gradient[5:], np.zeros((5, 4)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_unlabelled_row_is_zero_in_the_array_function(smoothing):
    rows, gradient = rows_and_gradient(example(7)[0][:1], jnp.array([-1], jnp.int32), smoothing)
    np.testing.assert_array_equal(rows, [0.0])
    np.testing.assert_array_equal(gradient, np.zeros((1, 4)))


@pytest.mark.parametrize("soft", [False, True])
def test_padded_rows_have_no_influence(soft):
    logits, labels, probabilities = example(8)
    labels = probabilities if soft else labels
    value, gradient = jax.value_and_grad(mean_loss)(logits, {"label": jnp.asarray(labels)})
    batch = {"label": jnp.asarray(np.concatenate([labels, labels[:2]]))}
    batch["mask"] = jnp.array([1.0] * 5 + [0.0] * 2)
    padded = np.concatenate([logits, np.full((2, 4), 1e4, np.float32)])
    padded_value, padded_gradient = jax.value_and_grad(mean_loss)(padded, batch)
    np.testing.assert_allclose(padded_value, value, rtol=1e-6)
    np.testing.assert_allclose(padded_gradient[:5], gradient, rtol=1e-6)
    np.testing.assert_array_equal(padded_gradient[5:], np.zeros((2, 4)))


def test_a_batch_without_labels_gives_zero():
    logits, _, _ = example(9)
    batch = {"label": jnp.full(5, -1, jnp.int32), "mask": jnp.ones(5)}
    value, gradient = jax.value_and_grad(mean_loss)(logits, batch)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((5, 4)))


@pytest.mark.parametrize("label", [4, 100, -2])
def test_a_label_that_is_no_class_cannot_pass_unseen(label):
    rows, gradient = rows_and_gradient(example(10)[0][:2], jnp.array([1, label], jnp.int32))
    assert np.isfinite(rows[0])
    assert np.isfinite(gradient[0]).all()
    assert np.isnan(rows[1])
    assert np.isnan(gradient[1]).any()


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int32])
def test_any_integer_dtype_is_a_label(dtype):
    logits, labels, _ = example(11)
    expected = mean_loss(logits, {"label": jnp.asarray(labels)})
    np.testing.assert_array_equal(
        mean_loss(logits, {"label": jnp.asarray(labels, dtype)}), expected
    )


def test_metrics_are_the_value_and_the_top_1_of_labelled_valid_rows():
    logits = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    batch = {"label": jnp.array([0, 0, -1, 0], jnp.int32), "mask": jnp.array([1.0, 1.0, 1.0, 0.0])}
    value, metrics = cross_entropy(signal="logits")({"logits": logits}, batch)
    assert set(metrics) == {"cross_entropy", "accuracy"}
    assert float(metrics["cross_entropy"]) == float(value)
    assert float(metrics["accuracy"]) == 0.5


def test_accuracy_with_soft_labels_is_against_the_likeliest_class():
    batch = {"label": jnp.array([[0.6, 0.4], [0.6, 0.4]])}
    _, metrics = cross_entropy()({"student": jnp.array([[1.0, 0.0], [0.0, 1.0]])}, batch)
    assert float(metrics["accuracy"]) == 0.5


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_label_smoothing_must_be_a_share(smoothing):
    with pytest.raises(ValueError, match="cross_entropy: label_smoothing"):
        cross_entropy(smoothing)


def test_missing_signal_and_missing_labels_are_named():
    with pytest.raises(KeyError, match="cross_entropy reads the signal 'student'"):
        cross_entropy()({"teacher": jnp.zeros((2, 3))}, {"label": jnp.zeros(2, jnp.int32)})
    with pytest.raises(KeyError, match=r"batch\['label'\], and this batch has id, image"):
        cross_entropy()({"student": jnp.zeros((2, 3))}, {"image": 0, "id": 0})


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 3), ()])
def test_labels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"labels \[B\] or \[B, C\], got \(2, 3\) and"):
        softmax_cross_entropy(jnp.zeros((2, 3)), jnp.zeros(shape, jnp.int32))


@pytest.mark.parametrize("labels", [jnp.zeros(2), jnp.zeros((2, 3), jnp.int32)])
def test_labels_of_another_kind_are_refused(labels):
    with pytest.raises(TypeError, match="must be"):
        softmax_cross_entropy(jnp.zeros((2, 3)), labels)
