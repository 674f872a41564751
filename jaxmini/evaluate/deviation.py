"""Deviation: how far integers are from those expected, counted in steps of their grid (LSB)."""

import dataclasses

import numpy as np

# The largest difference that each class of the histogram holds; a last class holds what is beyond.
UPPER = (0, 1, 2, 4, 8)
CLASSES = ("0", "1", "2", "3–4", "5–8", "more")


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How many of the compared integers differ by how much. Deviations of parts add up.

    Attributes:
        histogram: how many integers differ by 0, 1, 2, 3 to 4, 5 to 8 and more steps.
        largest: the largest difference.
    """

    histogram: tuple[int, ...] = (0,) * len(CLASSES)
    largest: int = 0

    @property
    def compared(self) -> int:
        return sum(self.histogram)

    @property
    def differing(self) -> int:
        return self.compared - self.histogram[0]

    def __add__(self, other: "Deviation") -> "Deviation":
        counts = zip(self.histogram, other.histogram, strict=True)
        return Deviation(tuple(map(sum, counts)), max(self.largest, other.largest))


def deviation(expected: np.ndarray, answers: np.ndarray) -> Deviation:
    """How far the answers are from those expected, number by number.

    Args:
        expected, answers: integers, as many as each other; shapes do not matter.

    Raises:
        ValueError: they are not as many, or not integers.
    """
    expected, answers = np.ravel(expected), np.ravel(answers)
    if expected.size != answers.size:
        raise ValueError(f"deviation: {answers.size} numbers, expected {expected.size}")
    if not all(np.issubdtype(array.dtype, np.integer) for array in (expected, answers)):
        raise ValueError(f"deviation: {answers.dtype} and {expected.dtype} are not both integers")
    steps = np.abs(expected.astype(np.int64) - answers.astype(np.int64))
    counts = np.bincount(np.searchsorted(UPPER, steps), minlength=len(CLASSES))
    return Deviation(tuple(counts.tolist()), int(steps.max(initial=0)))
