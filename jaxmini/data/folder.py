"""A folder of PNG and JPEG files as a dataset: a sub-folder for each class, or no labels."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from jaxmini.data import pictures
from jaxmini.data.dataset import UNLABELLED, Dataset, Split
from jaxmini.data.order import permutation
from jaxmini.near_miss import did_you_mean

# Picture formats that are not read. A file of one is an error; any other file is left alone.
OTHER_FORMATS = (".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif", ".ppm", ".pgm", ".jp2")


@dataclasses.dataclass(frozen=True)
class folder:
    """Pictures in a folder.

    ``path/<class>/*.png`` gives one class for each sub-folder, in alphabetical order;
    ``path/*.png`` gives pictures without labels, for pretraining. Either layout may stand in
    ``path/train`` and ``path/test``, which are then the splits; otherwise a part of every class is
    held out.

    Attributes:
        path: of the folder.
        size: height and width to which the central square of every picture is resized; None = as
            stored, where all must have one size.
        channels: 3 (RGB) or 1 (grey).
        test: part to hold out, 0..1 without 1; unused where there is a ``test`` folder.
        seed: which pictures are held out.
    """

    path: str | Path
    size: int | None = None
    channels: int = 3
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"folder: channels={self.channels}, expected 1 (grey) or 3 (RGB)")
        if self.size is not None and self.size < 1:
            raise ValueError(f"folder: size={self.size}, expected at least 1 pixel")
        if not 0 <= self.test < 1:
            raise ValueError(
                f"folder: test={self.test}, expected the part to hold out, 0 <= test < 1"
            )

    def load(self) -> Dataset:
        """Read all pictures, once in a process as long as the files do not change.

        Raises:
            FileNotFoundError, ValueError: the folder is not as described; names the file or folder.
        """
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"folder: there is no folder {root}")
        if (root / "train").is_dir() and (root / "test").is_dir():
            classes, train = self._read(root / "train")
            own_classes, test = self._read(root / "test")
            test = _renumber(test, own_classes, classes, root)
        else:
            classes, whole = self._read(root)
            train, test = _hold_out(whole, self.test, self.seed, root, classes)
        return Dataset(root.resolve().name, train, test, classes)

    def _read(self, place: Path) -> tuple[tuple[str, ...], Split]:
        classes, files = _layout(place)
        stamps = tuple((path, path.stat().st_mtime_ns) for path, _ in files)
        image = _decode(stamps, self.size, self.channels)
        return classes, Split(image, np.array([label for _, label in files], np.int32))


def _layout(place: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names and (file, label) of every picture."""
    inside = sorted(path for path in place.iterdir() if not path.name.startswith("."))
    folders = [path for path in inside if path.is_dir()]
    loose = _files(inside)
    if loose and folders:
        raise ValueError(
            f"{place}: holds pictures ({loose[0].name}, ...) beside folders ({folders[0].name}, "
            "...); either put every picture into the folder of its class, or all into one folder"
        )
    if loose:
        return (), [(path, UNLABELLED) for path in loose]
    if len(folders) == 1:
        hint = (
            "; a folder of splits needs both train and test" if folders[0].name == "train" else ""
        )
        raise ValueError(
            f"{place}: holds one class only, {folders[0].name!r}; for pictures without labels give "
            f"that folder itself{hint}"
        )
    files = [(path, k) for k, each in enumerate(folders) for path in _class_files(each)]
    if not files:
        raise ValueError(
            f"{place}: no pictures found; expected {', '.join(pictures.SUFFIXES)} files"
        )
    return tuple(each.name for each in folders), files


def _files(paths: list[Path]) -> list[Path]:
    for path in paths:
        if path.suffix.lower() in OTHER_FORMATS:
            raise ValueError(f"{path}: expected PNG or JPEG files; convert or remove this one")
    return [path for path in paths if path.is_file() and path.suffix.lower() in pictures.SUFFIXES]


def _class_files(place: Path) -> list[Path]:
    inside = sorted(place.rglob("*"))
    hidden = [
        any(name.startswith(".") for name in path.relative_to(place).parts) for path in inside
    ]
    files = _files([path for path, is_hidden in zip(inside, hidden, strict=True) if not is_hidden])
    if not files:
        raise ValueError(
            f"{place}: no pictures of this class; expected {', '.join(pictures.SUFFIXES)} files"
        )
    return files


@functools.lru_cache(maxsize=4)
def _decode(files: tuple[tuple[Path, int], ...], size: int | None, channels: int) -> np.ndarray:
    images = []
    for path, _ in files:
        image = pictures.read(path, size, channels)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"{path}: is {_extent(image)} pixels, but {files[0][0]} is {_extent(images[0])}; "
                "give folder a size= to bring all pictures to one"
            )
        images.append(image)
    return np.stack(images)


def _extent(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _hold_out(
    whole: Split, part: float, seed: int, root: Path, classes: tuple[str, ...]
) -> tuple[Split, Split]:
    """Training and test pictures; of every class the same part, rounded."""
    order = permutation(len(whole), seed, 0)
    drawn = whole.label[order]
    held = []
    for label in np.unique(whole.label):
        own = order[drawn == label]
        count = round(part * len(own))
        if part > 0 and not 0 < count < len(own):
            name = f"class {classes[label]!r}" if classes else "the folder"
            raise ValueError(
                f"{root}: {name} has {len(own)} pictures, of which test={part} would hold out "
                f"{count}; add pictures, change test, or make the folders train and test yourself"
            )
        held.append(own[:count])
    test = np.sort(np.concatenate(held))
    return whole.take(np.setdiff1d(np.arange(len(whole)), test)), whole.take(test)


def _renumber(test: Split, own: tuple[str, ...], classes: tuple[str, ...], root: Path) -> Split:
    """The test split with the labels of the training classes, by name."""
    if bool(own) != bool(classes):
        raise ValueError(
            f"{root}: one of train and test has a folder for each class, the other not"
        )
    for name in own:
        if name not in classes:
            raise ValueError(
                f"{root / 'test' / name}: there is no class of this name in train"
                f"{did_you_mean(name, classes)}"
            )
    if not own:
        return test
    numbers = np.array([classes.index(name) for name in own], np.int32)
    return Split(test.image, numbers[test.label])
