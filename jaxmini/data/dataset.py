"""Dataset: labelled pictures in memory, as uint8, in two splits; and what a source of one is.

Everything is checked once, here, so that no code downstream has to ask what a picture looks like.
"""

import dataclasses
import hashlib
from typing import Protocol

import numpy as np

UNLABELLED = -1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Pictures and their labels. The arrays are read-only views of what was given.

    Attributes:
        image: uint8 [N, H, W, C], C = 1 or 3.
        label: int32 [N]; -1 = unlabelled.

    Raises:
        TypeError, ValueError: an array is not of this kind; the message says how to make it so.
    """

    image: np.ndarray
    label: np.ndarray

    def __post_init__(self) -> None:
        _check_image(self.image)
        _check_label(self.label, len(self.image))
        object.__setattr__(self, "image", _read_only(self.image))
        object.__setattr__(self, "label", _read_only(self.label))

    def __len__(self) -> int:
        return len(self.image)

    def __repr__(self) -> str:
        height, width, channels = self.shape
        kind = (
            "" if self.labelled else " without labels" if not self.any_label else " partly labelled"
        )
        return f"Split({len(self):,} pictures {height}x{width}x{channels}{kind})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture: (height, width, channels)."""
        return self.image.shape[1:]

    @property
    def labelled(self) -> bool:
        """Whether every picture has a label."""
        return bool(np.all(self.label != UNLABELLED))

    @property
    def any_label(self) -> bool:
        """Whether at least one picture has a label."""
        return bool(np.any(self.label != UNLABELLED))

    def take(self, index: np.ndarray) -> "Split":
        """The pictures at these positions, in this order."""
        return Split(self.image[index], self.label[index])

    def require_labels(self, place: str) -> None:
        """Refuse a split in which a picture has no label.

        Raises:
            ValueError: names ``place``, what needs the labels, and how many are missing.
        """
        missing = int(np.sum(self.label == UNLABELLED))
        if missing:
            raise ValueError(
                f"{place}: needs a label for every picture, but {missing:,} of {len(self):,} have "
                "none; use a labelled source here (folders: one sub-folder for each class)"
            )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A training and a test split of the same kind of pictures.

    Attributes:
        name: what reports call it.
        train: at least one picture.
        test: pictures of the same shape; may be empty.
        labels: class names, ``labels[k]`` for label k; empty if there are no labels at all.

    Raises:
        ValueError: the parts do not fit together; the message names the one that does not.
    """

    name: str
    train: Split
    test: Split
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.train):
            raise ValueError(f"Dataset {self.name!r}: the training split holds no pictures")
        if self.train.shape != self.test.shape:
            raise ValueError(
                f"Dataset {self.name!r}: training pictures are {self.train.shape}, test pictures "
                f"{self.test.shape}; bring both to one height, width and number of channels"
            )
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"Dataset {self.name!r}: class names repeat: {self.labels}")
        for name, split in (("train", self.train), ("test", self.test)):
            _check_range(f"Dataset {self.name!r}, {name}", split, self.labels)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {self.train}, {self.test}, {len(self.labels)} classes)"

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 over the class names, shapes and bytes."""
        digest = hashlib.sha256("\0".join(self.labels).encode())
        for split in (self.train, self.test):
            digest.update(str(split.image.shape).encode())
            digest.update(np.ascontiguousarray(split.image).data)
            digest.update(np.ascontiguousarray(split.label.astype("<i4")).data)
        return digest.hexdigest()[:16]


class Source(Protocol):
    """Where a dataset comes from: a frozen dataclass that says it, and ``load`` that fetches it."""

    def load(self) -> Dataset: ...


def _check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray):
        raise TypeError(f"Split.image: got {type(image).__name__}, expected a numpy array")
    if image.dtype != np.uint8:
        raise TypeError(
            f"Split.image: got dtype {image.dtype}, expected uint8 in 0..255; "
            "pictures in 0..1 become so by np.round(255 * image).astype(np.uint8)"
        )
    if image.ndim != 4:
        hint = "; grey pictures need a channel axis: image[..., None]" if image.ndim == 3 else ""
        raise ValueError(f"Split.image: got shape {image.shape}, expected [N, H, W, C]{hint}")
    if image.shape[-1] not in (1, 3) or 0 in image.shape[1:]:
        hint = ""
        if image.shape[1] in (1, 3):
            hint = "; channels come last: image.transpose(0, 2, 3, 1)"
        raise ValueError(f"Split.image: got shape {image.shape}, expected [N, H, W, 1 or 3]{hint}")


def _check_label(label: np.ndarray, pictures: int) -> None:
    if not isinstance(label, np.ndarray):
        raise TypeError(f"Split.label: got {type(label).__name__}, expected a numpy array")
    if label.dtype != np.int32:
        raise TypeError(
            f"Split.label: got dtype {label.dtype}, expected int32: label.astype(np.int32)"
        )
    if label.shape != (pictures,):
        raise ValueError(
            f"Split.label: got shape {label.shape}, expected ({pictures},), one for each picture"
        )


def _check_range(place: str, split: Split, labels: tuple[str, ...]) -> None:
    wrong = np.flatnonzero((split.label < UNLABELLED) | (split.label >= len(labels)))
    if wrong.size:
        first = int(wrong[0])
        raise ValueError(
            f"{place}: picture {first} has label {split.label[first]}, expected "
            f"0..{len(labels) - 1} for {len(labels)} class names, or {UNLABELLED} for unlabelled"
        )


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
