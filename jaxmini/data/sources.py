"""Sources that need no files: arrays the caller has, and the digits that come with scikit-learn.

Here are also the two functions Source -> Source: fewer labels, and none.
"""

import dataclasses
import functools

import numpy as np

from jaxmini.data.dataset import UNLABELLED, Dataset, Source, Split
from jaxmini.data.order import permutation


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class arrays:
    """A dataset of one's own numpy arrays.

    Attributes:
        train_image, test_image: uint8 [N, H, W, C]; without test pictures the test split is empty.
        train_label, test_label: integers [N]; None = unlabelled.
        labels: class names; by default ``"0"``, ``"1"``, ... as many as the labels reach.
        name: what reports call it.
    """

    train_image: np.ndarray
    train_label: np.ndarray | None = None
    test_image: np.ndarray | None = None
    test_label: np.ndarray | None = None
    labels: tuple[str, ...] | None = None
    name: str = "arrays"

    def __repr__(self) -> str:
        return f"arrays(name={self.name!r}, train_image={_brief(self.train_image)})"

    def load(self) -> Dataset:
        test_image = self.train_image[:0] if self.test_image is None else self.test_image
        train = Split(self.train_image, _labels("train_label", self.train_label, self.train_image))
        test = Split(test_image, _labels("test_label", self.test_label, test_image))
        names = self.labels
        if names is None:
            count = 1 + max(split.label.max(initial=UNLABELLED) for split in (train, test))
            names = tuple(str(index) for index in range(count))
        return Dataset(self.name, train, test, tuple(names))


@dataclasses.dataclass(frozen=True)
class digits:
    """1,797 handwritten digits of 8x8 grey pixels that scikit-learn brings; nothing is downloaded.

    Their values 0..16 become 0..255. The split is one random permutation, the same everywhere.
    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), test part.

    Attributes:
        test: pictures held out, 1..1796.
    """

    test: int = 500

    def load(self) -> Dataset:
        image, label = _read_digits()
        if not 0 < self.test < len(image):
            raise ValueError(
                f"digits: test={self.test} pictures to hold out, expected 1..{len(image) - 1}"
            )
        whole = Split(image, label)
        order = permutation(len(whole), seed=0, epoch=0)
        train, test = order[: -self.test], order[-self.test :]
        return Dataset("digits", whole.take(train), whole.take(test), tuple("0123456789"))


@dataclasses.dataclass(frozen=True)
class few_labels:
    """Only ``n`` examples of a source's training split; its test split stays whole.

    The examples are drawn at random, every class in proportion to its size and with at least one.
    With the same seed a larger ``n`` keeps all examples of a smaller one, up to the rounding of the
    classes' shares.

    Attributes:
        source: a labelled source.
        n: examples to keep, from the number of classes to the size of the split.
        seed: which examples.
    """

    source: Source
    n: int
    seed: int = 0

    def load(self) -> Dataset:
        whole = self.source.load()
        place = f"few_labels of {whole.name}"
        whole.train.require_labels(place)
        shares = _shares(whole.train.label, self.n, place)
        order = permutation(len(whole.train), self.seed, 0)
        drawn = whole.train.label[order]
        kept = [order[drawn == label][:share] for label, share in shares.items()]
        return dataclasses.replace(
            whole,
            name=f"{whole.name}, {self.n:,} labels",
            train=whole.train.take(np.sort(np.concatenate(kept))),
        )


@dataclasses.dataclass(frozen=True)
class unlabelled:
    """All training pictures of a source, without their labels; its test split keeps them."""

    source: Source

    def load(self) -> Dataset:
        whole = self.source.load()
        train = Split(whole.train.image, np.full_like(whole.train.label, UNLABELLED))
        return dataclasses.replace(whole, name=f"{whole.name}, no labels", train=train)


@functools.lru_cache(maxsize=1)
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    image = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return image[..., None], bunch.target.astype(np.int32)


def _labels(field: str, label: np.ndarray | None, image: np.ndarray) -> np.ndarray:
    if label is None:
        return np.full(len(image), UNLABELLED, np.int32)
    if not np.issubdtype(np.asarray(label).dtype, np.integer):
        raise TypeError(
            f"arrays.{field}: got dtype {np.asarray(label).dtype}, expected integers, the class of "
            "each picture (one-hot rows become so by argmax(-1))"
        )
    return np.asarray(label).astype(np.int32)


def _shares(label: np.ndarray, n: int, place: str) -> dict[int, int]:
    """How many of each class make ``n``: proportional, at least one, largest remainders first."""
    classes, counts = np.unique(label, return_counts=True)
    if not len(classes) <= n <= len(label):
        raise ValueError(
            f"{place}: n={n}, expected {len(classes)} (one for each class) to {len(label):,} (all)"
        )
    exact = n * counts / len(label)
    shares = np.maximum(np.floor(exact).astype(int), 1)
    # Where the minimum of one gave too much, the classes furthest above their part give back.
    while shares.sum() > n:
        shares[np.argmax(np.where(shares > 1, shares - exact, -np.inf))] -= 1
    while shares.sum() < n:
        shares[np.argmax(np.where(shares < counts, exact - shares, -np.inf))] += 1
    return dict(zip(classes.tolist(), shares.tolist(), strict=True))


def _brief(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else repr(array)
