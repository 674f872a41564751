"""Cross-entropy: the logits of a classifier against labels, hard or soft.

An example without a label has no influence, so labelled and unlabelled rows can share a batch.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxmini.losses.loss import Loss, Signals, batch_mean, read
from jaxmini.state import Array, Batch, Metrics

UNLABELLED = -1


@dataclasses.dataclass(frozen=True)
class cross_entropy(Loss):
    """Softmax cross-entropy of a signal with ``batch["label"]``; see :func:`softmax_cross_entropy`.

    ``batch["label"]`` is int [B], where -1 marks an unlabelled row, or probabilities [B, C]. The
    mean is over the labelled valid rows; without one the loss is 0.

    Metrics: ``cross_entropy`` and ``accuracy``, the top-1 of this batch (against the likeliest
    class where labels are soft).

    Raises:
        ValueError: ``label_smoothing`` is outside [0, 1).
    """

    label_smoothing: float = 0.0
    signal: str = "student"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"cross_entropy: label_smoothing={self.label_smoothing} must be in [0, 1)"
            )

    def __call__(self, signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
        logits, labels = read(signals, self.signal, self), _read_labels(batch)
        rows = softmax_cross_entropy(logits, labels, self.label_smoothing)
        classes = labels.astype(jnp.int32) if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
        correct = jnp.argmax(logits, axis=-1) == classes
        mask = _has_label(labels).astype(jnp.float32)
        labelled = {"mask": mask * batch["mask"].astype(jnp.float32) if "mask" in batch else mask}
        value = batch_mean(rows, labelled)
        return value, {"cross_entropy": value, "accuracy": batch_mean(correct, labelled)}


def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """``-sum_c p_c log softmax(logits)_c`` of each row, float32 [B].

    Args:
        logits: any float dtype [B, C]; computed in float32.
        labels: classes, int [B], or probabilities, float [B, C]. A row labelled -1 gives 0. Values
            cannot be checked under jit: a class outside [-1, C) makes loss and gradient NaN.
        label_smoothing: epsilon in [0, 1), a Python float: ``p = (1 - epsilon) label + epsilon/C``,
            all classes share epsilon, the label's own too.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: labels [B] are not integers, or labels [B, C] are not floats.

    Source: for label smoothing, Szegedy et al., Rethinking the Inception Architecture for Computer
    Vision (2016), section 7.
    """
    _check_labels(logits, labels)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    likelihood = _hard(log_probs, labels) if labels.ndim == 1 else _soft(log_probs, labels)
    if label_smoothing:
        uniform = jnp.mean(log_probs, axis=-1)
        likelihood = (1 - label_smoothing) * likelihood + label_smoothing * uniform
    return jnp.where(_has_label(labels), -likelihood, 0.0)


def _hard(log_probs: Array, labels: Array) -> Array:
    """The labels' log-probabilities [B], NaN where a label is no class."""
    known = (labels >= 0) & (labels < log_probs.shape[-1])
    index = jnp.where(known, labels, 0)[:, None]
    picked = jnp.take_along_axis(log_probs, index, axis=-1)[:, 0]
    return picked * jnp.where(known | ~_has_label(labels), 1.0, jnp.nan)


def _soft(log_probs: Array, labels: Array) -> Array:
    """The expected log-probability [B]; a class of probability 0 adds 0, also where log is -inf."""
    labels = labels.astype(jnp.float32)
    return jnp.sum(jnp.where(labels > 0, labels * log_probs, 0.0), axis=-1)


def _read_labels(batch: Batch) -> Array:
    if "label" not in batch:
        raise KeyError(
            f"cross_entropy reads batch['label'], and this batch has {', '.join(sorted(batch))}"
        )
    return batch["label"]


def _has_label(labels: Array) -> Array:
    """Which rows are labelled, bool [B]."""
    if labels.ndim > 1:
        return jnp.ones(len(labels), bool)
    return labels.astype(jnp.int32) != UNLABELLED


def _check_labels(logits: Array, labels: Array) -> None:
    if logits.ndim != 2 or labels.shape not in (logits.shape, logits.shape[:1]):
        raise ValueError(
            "softmax_cross_entropy: expected logits [B, C] and labels [B] or [B, C], "
            f"got {logits.shape} and {labels.shape}"
        )
    kind, name = (jnp.integer, "integer") if labels.ndim == 1 else (jnp.floating, "float")
    if not jnp.issubdtype(labels.dtype, kind):
        raise TypeError(
            f"softmax_cross_entropy: labels {labels.shape} must be {name}, got {labels.dtype}"
        )
