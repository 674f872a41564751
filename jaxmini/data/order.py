"""Order: which examples make batch number k of a run, a function of sizes, seed and k alone.

A resumed run needs only its step to see the same batches: no iterator has a state to save.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from jaxmini.data.dataset import UNLABELLED, Split

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Order:
    """Every epoch a new permutation, cut into full batches; what is left over is dropped.

    Attributes:
        examples: size of the split.
        batch_size: examples in a batch, at most ``examples``.
        seed: of the permutations.
    """

    examples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"Order: batch_size={self.batch_size}, expected at least 1")
        if self.batch_size > self.examples:
            raise ValueError(
                f"Order: batch_size={self.batch_size} is more than the {self.examples} examples of "
                f"the split; take a batch_size of at most {self.examples}, or more examples"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.examples // self.batch_size

    def at(self, step: int) -> tuple[int, np.ndarray]:
        """The epoch of batch number ``step`` (from 0) and the ids of its examples, int64 [B]."""
        if step < 0:
            raise ValueError(f"Order: step={step}, expected 0 or more")
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return epoch, permutation(self.examples, self.seed, epoch)[start : start + self.batch_size]


@functools.lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..n-1, int64 [n], read-only, from numpy's Philox(key=[seed, epoch]).

    Raises:
        ValueError: ``seed`` or ``epoch`` is negative or has more than 64 bits.
    """
    for name, value in (("seed", seed), ("epoch", epoch)):
        if not 0 <= value < 2**64:
            raise ValueError(f"permutation: {name}={value}, expected 0..2**64 - 1")
    key = np.array([seed, epoch], np.uint64)
    order = np.random.Generator(np.random.Philox(key=key)).permutation(n)
    order.flags.writeable = False
    return order


def batch_at(split: Split, batch_size: int, seed: int, step: int) -> Batch:
    """Training batch number ``step`` of a run: image, label, id and epoch, see ``Order``."""
    epoch, ids = Order(len(split), batch_size, seed).at(step)
    return _gather(split, ids, epoch)


def batches(split: Split, batch_size: int, *, seed: int, epoch: int = 0) -> Iterator[Batch]:
    """The training batches of one epoch, equal to ``batch_at`` of its steps."""
    steps = Order(len(split), batch_size, seed).steps_per_epoch
    for step in range(epoch * steps, (epoch + 1) * steps):
        yield batch_at(split, batch_size, seed, step)


def evaluation_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """The split in its own order, once; every batch has ``batch_size`` rows and a mask.

    ``mask`` is float32 [B], 1 for an example and 0 for padding. A padded row repeats a real picture
    (so it widens no range that is measured) with id and label -1.
    """
    if batch_size < 1:
        raise ValueError(f"evaluation_batches: batch_size={batch_size}, expected at least 1")
    for start in range(0, len(split), batch_size):
        ids = np.arange(start, start + batch_size)
        valid = ids < len(split)
        batch = _gather(split, np.where(valid, ids, start), epoch=0)
        yield batch | {
            "label": np.where(valid, batch["label"], np.int32(UNLABELLED)),
            "id": np.where(valid, batch["id"], np.int32(-1)),
            "mask": valid.astype(np.float32),
        }


def _gather(split: Split, ids: np.ndarray, epoch: int) -> Batch:
    return {
        "image": split.image[ids],
        "label": split.label[ids],
        "id": ids.astype(np.int32),
        "epoch": np.full(len(ids), epoch, np.int32),
    }
