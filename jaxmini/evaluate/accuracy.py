"""Accuracy: how often the largest logit is the label's, and which classes are taken for which."""

from collections.abc import Callable

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]


def predict_all(predict: Predict, images: np.ndarray, batch_size: int = 128) -> np.ndarray:
    """Logits of every image, float32 [N, C].

    The last batch is filled up with its own first rows, so that a compiled predict sees one shape.

    Args:
        predict: uint8 [B, H, W, C] -> float32 [B, C].
        images: uint8 [N, H, W, C], N >= 1.
        batch_size: images at a time.

    Raises:
        ValueError: no images, a batch size below 1, or logits of another batch than the images'.
    """
    if batch_size < 1:
        raise ValueError(f"predict_all: batch_size is {batch_size}; it must be at least 1")
    if len(images) == 0:
        raise ValueError("predict_all: there are no images")
    batch_size = min(batch_size, len(images))
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        rows = np.resize(np.arange(len(batch)), batch_size)
        logits = np.asarray(predict(batch[rows]), np.float32)
        if logits.ndim != 2 or len(logits) != batch_size:
            raise ValueError(
                f"predict_all: predict returned logits {list(logits.shape)} for {batch_size} images"
            )
        outputs.append(logits[: len(batch)])
    return np.concatenate(outputs)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of the examples whose largest logit is their label's, in 0..1; ties go to the smaller class.

    Args:
        logits: [N, C], finite.
        labels: integers [N] in 0..C-1.

    Raises:
        ValueError: shapes that do not fit, a label outside the classes (-1 of an unlabelled example too),
            or logits that are not finite.
    """
    labels = _checked(logits, labels, "accuracy")
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def of_labelled(logits: np.ndarray, labels: np.ndarray | None) -> float | None:
    """The accuracy on those that have a label, which others have -1 for; None where none has."""
    labelled = np.flatnonzero(labels >= 0) if labels is not None else np.array([], int)
    return accuracy(logits[labelled], labels[labelled]) if len(labelled) else None


def one_each(where: str, labels: np.ndarray, count: int) -> np.ndarray:
    """The labels of so many examples, seen to be one integer each.

    Raises:
        ValueError: they are not; begins with ``where``.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{where}: expected labels of {count} examples, integers [{count}], "
            f"got {labels.dtype}{list(labels.shape)}; -1 is the label of one that has none"
        )
    return labels


def confusion(logits: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How many examples of each class were taken for which, int64 [C, C]: row the label, column the answer.

    Args:
        logits: [N, C], finite.
        labels: integers [N] in 0..C-1.
        num_classes: C.

    Raises:
        ValueError: as ``accuracy``, or logits of another number of classes.
    """
    if np.shape(logits)[-1:] != (num_classes,):
        raise ValueError(
            f"confusion: logits {list(np.shape(logits))} are not of {num_classes} classes"
        )
    labels = _checked(logits, labels, "confusion")
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, np.argmax(logits, axis=-1)), 1)
    return counts


def _checked(logits: np.ndarray, labels: np.ndarray, where: str) -> np.ndarray:
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"{where}: expected logits [N, C] and labels [N] with N >= 1, "
            f"got {list(logits.shape)} and {list(labels.shape)}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{where}: labels are {labels.dtype}; they must be integers")
    outside = (labels < 0) | (labels >= logits.shape[1])
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"{where}: label {labels[row]} of example {row} is not in 0..{logits.shape[1] - 1}"
            + ("; -1 marks an unlabelled example: leave it out" if labels[row] == -1 else "")
        )
    if not np.isfinite(logits).all():
        row = int(np.argmin(np.isfinite(logits).all(axis=1)))
        raise ValueError(f"{where}: logits of example {row} are not finite: {logits[row]}")
    return labels
