"""Datasets of TensorFlow Datasets, read by its own builders into memory and cached as arrays.

TensorFlow is imported only when a dataset is prepared, not when its cached copy is read.
"""

import dataclasses
import difflib
import functools
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxmini.data import damage, pictures
from jaxmini.data.dataset import Dataset, Split

DATA_DIR = "JAXMINI_DATA_DIR"
CACHE_DIR = "JAXMINI_CACHE_DIR"
# Of a prepared file: its arrays, and what to do where they are not those that were written.
ARRAYS = (
    "train_image",
    "train_label",
    "test_image",
    "test_label",
    "labels",
    "name",
    "fingerprint",
)
REMEDY = "delete the file, it will be made again"


@dataclasses.dataclass(frozen=True)
class tfds:
    """An image classification dataset of the TFDS catalogue.

    Where the environment variable ``JAXMINI_DATA_DIR`` is set nothing is downloaded: the dataset's
    original files are expected in ``$JAXMINI_DATA_DIR/<name>``, and TFDS checks their checksums.
    What is prepared goes to ``$JAXMINI_CACHE_DIR``, by default ``~/.cache/jaxmini/tfds``.

    Attributes:
        name: in the catalogue, with config and version if wanted: ``"fashion_mnist"``.
        size: height and width to which the central square of every picture is resized; None = as
            stored, where all must have one size.
        train, test: names of splits, or TFDS's split expressions: ``"train[:80%]"``.
    """

    name: str
    size: int | None = None
    train: str = "train"
    test: str = "test"

    def load(self) -> Dataset:
        """Read the dataset: from memory, from the cache, or through TFDS.

        Raises:
            ModuleNotFoundError: TFDS is needed and not installed.
            FileNotFoundError: offline, and a file is missing; names the folder and the files.
            ValueError: not pictures with labels, no such split, or a damaged cache.
        """
        return _load(self, cache_dir(), data_dir())


def data_dir() -> Path | None:
    """The folder of original files for work offline; None where datasets may be downloaded."""
    place = os.environ.get(DATA_DIR)
    return Path(place) if place else None


def cache_dir() -> Path:
    """Where prepared datasets are kept."""
    return Path(os.environ.get(CACHE_DIR) or "~/.cache/jaxmini/tfds").expanduser()


@functools.lru_cache(maxsize=4)
def _load(source: tfds, cache: Path, offline: Path | None) -> Dataset:
    stem = re.sub(r"[^\w.]+", "_", source.name)
    digest = hashlib.sha256(repr(source).encode()).hexdigest()[:12]
    file = cache / "arrays" / f"{stem}-{digest}.npz"
    if file.exists():
        return _read_arrays(file)
    dataset = _prepare(source, cache, offline)
    _write_arrays(file, dataset)
    return dataset


def _prepare(source: tfds, cache: Path, offline: Path | None) -> Dataset:
    catalogue = _import_tfds()
    try:
        builder = catalogue.builder(source.name, data_dir=str(cache))
    except catalogue.core.registered.DatasetNotFoundError as error:
        near = difflib.get_close_matches(source.name, catalogue.list_builders(), 3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"tfds: no dataset {source.name!r} in the catalogue{hint}") from error
    _check_features(builder)
    config = None if offline is None else _offline(catalogue, builder, offline)
    builder.download_and_prepare(download_config=config)
    train, test = (_read_split(catalogue, builder, source, part) for part in ("train", "test"))
    return Dataset(source.name, train, test, tuple(builder.info.features["label"].names))


def _import_tfds() -> Any:
    try:
        import importlib_resources  # noqa: F401  (TFDS imports it late and does not declare it)
        import tensorflow  # noqa: F401
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"tfds: TensorFlow Datasets needs the module {error.name}, which is not installed: "
            "pip install 'jaxmini[tfds]'",
            name=error.name,
        ) from error
    return tensorflow_datasets


def _check_features(builder: Any) -> None:
    features = builder.info.features
    missing = [name for name in ("image", "label") if name not in features]
    if missing or not hasattr(features["label"], "names"):
        raise ValueError(
            f"tfds {builder.name!r}: expected an image classification dataset with the features "
            f"image and label, this one has {', '.join(features)}"
        )


def _offline(catalogue: Any, builder: Any, root: Path) -> Any:
    """A configuration of TFDS that takes the original files from a folder and downloads nothing."""
    folder = root / builder.name
    expected = sorted({info.filename for info in (builder.url_infos or {}).values()})
    missing = [name for name in expected if not (folder / name).is_file()]
    if (missing or not folder.is_dir()) and not builder.data_path.exists():
        files = ", ".join(missing) or "the original files"
        raise FileNotFoundError(
            f"tfds {builder.name!r}: {folder} lacks {files}. {DATA_DIR} is set, so nothing is "
            "downloaded: put what the publisher offers there, under the same names, or unset "
            f"{DATA_DIR} to let TFDS download"
        )
    return catalogue.download.DownloadConfig(
        manual_dir=str(folder), try_download_gcs=False, num_shards=1
    )


def _read_split(catalogue: Any, builder: Any, source: tfds, part: str) -> Split:
    """One split, in the order in which TFDS stores it."""
    expression = getattr(source, part)
    name = re.match(r"\w*", expression).group()
    if name not in builder.info.splits:
        raise ValueError(
            f"tfds {builder.name!r}: no split {name!r} for {part}; there are "
            f"{', '.join(builder.info.splits)}: say for example {part}='train[80%:]'"
        )
    read = functools.partial(
        builder.as_dataset,
        split=expression,
        shuffle_files=False,
        read_config=catalogue.ReadConfig(interleave_cycle_length=1),
    )
    if None not in builder.info.features["image"].shape[:2]:
        whole = catalogue.as_numpy(read(batch_size=-1))
        image, label = whole["image"], whole["label"]
    else:
        rows = [(row["image"], row["label"]) for row in catalogue.as_numpy(read())]
        image, label = [row[0] for row in rows], np.array([row[1] for row in rows])
    return Split(_stack(image, source), label.astype(np.int32))


def _stack(images: Any, source: tfds) -> np.ndarray:
    if source.size is not None:
        return np.stack([pictures.resize(image, source.size) for image in images])
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ValueError(
            f"tfds {source.name!r}: pictures have {len(shapes)} different sizes; give a size= to "
            "bring all of them to one"
        )
    return np.asarray(images)


def _write_arrays(file: Path, dataset: Dataset) -> None:
    """Write the dataset so that no reader, in this or another process, ever sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = (
        dataset.train.image,
        dataset.train.label,
        dataset.test.image,
        dataset.test.label,
        np.array(dataset.labels),
        np.array(dataset.name),
        np.array(dataset.fingerprint()),
    )
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as draft:
        np.savez(draft, **dict(zip(ARRAYS, content, strict=True)))
    os.replace(draft.name, file)


def _read_arrays(file: Path) -> Dataset:
    with damage.named(file, "a prepared dataset", REMEDY):
        train_image, train_label, test_image, test_label, labels, name, fingerprint = damage.arrays(
            file, ARRAYS
        )
        train, test = Split(train_image, train_label), Split(test_image, test_label)
        dataset = Dataset(str(name), train, test, tuple(labels.tolist()))
    if dataset.fingerprint() != str(fingerprint):
        raise ValueError(
            f"{file}: its content is not what was written (fingerprint {dataset.fingerprint()}, "
            f"expected {fingerprint}); {REMEDY}"
        )
    return dataset
