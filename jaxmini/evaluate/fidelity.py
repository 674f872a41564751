"""Fidelity: how alike the answers of two models are: teacher and student, float and integer, net and file."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How alike two models' logits on the same examples are.

    Attributes:
        agreement: share of the examples on which both name the same class, in 0..1.
        kl: mean over the examples of KL(reference || other) of their softmax, in nats, >= 0.
        cosine: mean cosine similarity of the logits, each example's mean removed, in -1..1.
        max_difference: largest absolute difference of two logits.
    """

    agreement: float
    kl: float
    cosine: float
    max_difference: float


def fidelity(reference: np.ndarray, other: np.ndarray) -> Fidelity:
    """All measures of how alike two models' logits are.

    Args:
        reference: [N, C], of the model to be like.
        other: [N, C], of the same examples in the same order.

    Raises:
        ValueError: shapes differ, there are no examples, or logits are not finite.
    """
    reference, other = _checked(reference, other)
    return Fidelity(
        agreement(reference, other),
        mean_kl(reference, other),
        mean_cosine(reference, other),
        float(np.max(np.abs(reference - other))),
    )


def agreement(reference: np.ndarray, other: np.ndarray) -> float:
    """Share of the examples on which both models name the same class, in 0..1.

    Raises:
        ValueError: as ``fidelity``.
    """
    reference, other = _checked(reference, other)
    return float(np.mean(np.argmax(reference, -1) == np.argmax(other, -1)))


def mean_kl(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean over the examples of KL(softmax(reference) || softmax(other)), in nats.

    Raises:
        ValueError: as ``fidelity``.
    """
    reference, other = map(_log_softmax, _checked(reference, other))
    kl = np.sum(np.exp(reference) * (reference - other), axis=-1)
    return float(np.mean(np.maximum(kl, 0.0)))  # rounding may leave a tiny negative number


def mean_cosine(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine similarity of the logits, each example's mean removed (softmax does not see it).

    Two constant rows are alike (1); a constant row is not like any other (0).

    Raises:
        ValueError: as ``fidelity``.
    """
    reference, other = (x - x.mean(axis=-1, keepdims=True) for x in _checked(reference, other))
    product = np.sum(reference * other, axis=-1)
    norms = np.linalg.norm(reference, axis=-1) * np.linalg.norm(other, axis=-1)
    both_constant = ~(reference.any(axis=-1) | other.any(axis=-1))
    cosine = np.where(norms > 0, product / np.where(norms > 0, norms, 1.0), both_constant)
    return float(np.mean(cosine))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def _checked(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, other = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if reference.ndim != 2 or reference.shape != other.shape or len(reference) == 0:
        raise ValueError(
            "fidelity: expected two arrays of logits [N, C] with N >= 1, "
            f"got {list(reference.shape)} and {list(other.shape)}"
        )
    if not (np.isfinite(reference).all() and np.isfinite(other).all()):
        raise ValueError("fidelity: logits are not finite")
    return reference, other
