"""Distance: how far the integer answers of a file are from those of the simulation, or of other kernels."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far two arrays of int8 logits are apart, in steps of their grid (LSB).

    Attributes:
        largest: the largest difference.
        share: of the logits that differ, 0..1.
        histogram: difference -> how many logits.
        agreement: share of the examples with the same first class.
    """

    largest: int
    share: float
    histogram: dict[int, int]
    agreement: float


def compare(expected: np.ndarray, answers: np.ndarray) -> Distance:
    """How far the answers of a file (or of other kernels) are from those expected.

    Args:
        expected: integers [N, C], of the integer simulation.
        answers: integers [N, C], of the file on the same images.

    Raises:
        ValueError: shapes differ, there are no examples, or the numbers are not integers.
    """
    expected, answers = np.asarray(expected), np.asarray(answers)
    if expected.ndim != 2 or expected.shape != answers.shape or not len(expected):
        raise ValueError(
            f"compare: expected logits {list(expected.shape)} and {list(answers.shape)} are not alike"
        )
    if not all(np.issubdtype(array.dtype, np.integer) for array in (expected, answers)):
        raise ValueError(f"compare: logits are {expected.dtype} and {answers.dtype}, not integers")
    steps = np.abs(expected.astype(np.int64) - answers.astype(np.int64))
    values, counts = np.unique(steps, return_counts=True)
    return Distance(
        largest=int(steps.max()),
        share=float(np.mean(steps > 0)),
        histogram={int(value): int(count) for value, count in zip(values, counts, strict=True)},
        agreement=float(np.mean(expected.argmax(-1) == answers.argmax(-1))),
    )
