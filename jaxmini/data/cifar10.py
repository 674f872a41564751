"""CIFAR-10: through TFDS, or offline from a lossless container of 25,000 of its 60,000 pictures.

The dataset's name says which of the two it is.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np

from jaxmini.data import damage
from jaxmini.data.dataset import Dataset, Split
from jaxmini.data.tfds import DATA_DIR, data_dir, tfds

# The first 2,000 training and 500 test pictures of each class, in the official order: SHA-256 of
# the decoded uint8 [N, 32, 32, 3] array of each file.
CONTAINER = {
    "train20000.npz": "b895a6ae7ad1c76b7167a64462e57819200e8cd6e3186f621a42ee371d90e124",
    "test5000.npz": "6639eba0818a4803e228b7e3653c74503d97ff7d0525c92fd92eff246c3a7d23",
}
ARCHIVE = "cifar-10-binary.tar.gz"


@dataclasses.dataclass(frozen=True)
class cifar10:
    """32x32 colour pictures of ten classes.

    Where ``$JAXMINI_DATA_DIR/cifar10`` holds ``train20000.npz`` and ``test5000.npz`` the dataset is
    that subset, and its name says so; otherwise it is TFDS's ``cifar10``, 50,000 + 10,000 pictures.
    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
    """

    def load(self) -> Dataset:
        """Read the dataset, once in a process.

        Raises:
            FileNotFoundError: offline without the container's files and without TFDS's archive.
            ValueError: a file of the container does not decode to the pictures it should hold.
        """
        root = data_dir()
        if root is None:
            return tfds("cifar10").load()
        place = root / "cifar10"
        if all((place / name).is_file() for name in CONTAINER):
            return _load(place)
        if (place / ARCHIVE).is_file():
            return tfds("cifar10").load()
        raise FileNotFoundError(
            f"cifar10: {place} holds neither {' and '.join(CONTAINER)} nor {ARCHIVE}. {DATA_DIR} "
            f"is set, so nothing is downloaded: put {ARCHIVE}, the official binary version, there "
            f"or unset {DATA_DIR} to let TFDS download"
        )


@functools.lru_cache(maxsize=1)
def _load(place: Path) -> Dataset:
    train, classes = _decode(place / "train20000.npz")
    test, _ = _decode(place / "test5000.npz")
    name = f"cifar10 ({len(train):,} + {len(test):,} of 60,000 pictures)"
    return Dataset(name, train, test, classes)


def _decode(path: Path) -> tuple[Split, tuple[str, ...]]:
    """The pictures of one file: planes G, R-G, B-G, as differences along both axes modulo 256."""
    with damage.named(path, "CIFAR-10's container", "replace it"):
        residual, label, names = damage.arrays(path, ("residual", "label", "classes"))
        planes = np.cumsum(residual, axis=2, dtype=np.uint8)
        green, red, blue = np.cumsum(planes, axis=3, dtype=np.uint8)
        image = np.stack([red + green, green, blue + green], axis=-1)
        split, classes = Split(image, label.astype(np.int32)), tuple(names.tolist())
    found = hashlib.sha256(image.data).hexdigest()
    if found != CONTAINER[path.name]:
        raise ValueError(
            f"{path}: its pixels have SHA-256 {found}, expected {CONTAINER[path.name]}; "
            "the file is not the one it should be: replace it"
        )
    return split, classes
