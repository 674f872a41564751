"""Examples: the pictures a page shows: of the run that the file lies in, of a folder, or random ones."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmini import data
from jaxmini.data import UNLABELLED
from jaxmini.demo.network import Network
from jaxmini.inspection import pictures
from jaxmini.near_miss import did_you_mean


class Examples(NamedTuple):
    """Pictures and what they show.

    Attributes:
        image: uint8 [N, H, W, C].
        label: int32 [N], a class of the network; ``UNLABELLED`` where it is unknown.
        origin: what they are, without a path of this machine: a page may be published.
        why_random: why there is no better; empty for those that are not random.
    """

    image: np.ndarray
    label: np.ndarray
    origin: str
    why_random: str = ""


def examples(network: Network, run: Path, folder: Path | None, count: int) -> Examples:
    """At most ``count`` pictures, spread evenly over what there is.

    Args:
        network: what they are for.
        run: folder of the run that the file may be of.
        folder: of pictures, laid out as ``data.folder`` reads them; None = the run's test split.
        count: at least 1.

    Raises:
        ValueError: ``count`` below 1; the folder's pictures or classes are not the network's.
        OSError: the folder cannot be read.
    """
    if count < 1:
        raise ValueError(f"the number of pictures is {count}; it must be at least 1")
    found = _of_run(network, run, count) if folder is None else _of_folder(network, folder)
    total = len(found.image)
    index = np.arange(min(count, total)) * total // min(count, total)
    return Examples(found.image[index], found.label[index], found.origin, found.why_random)


def _of_run(network: Network, run: Path, count: int) -> Examples:
    try:
        dataset = pictures.dataset_of(network.provenance, run)
        if dataset.test.shape != network.shape:
            raise ValueError(f"its pictures are {dataset.test.shape}, not {network.shape}")
    except pictures.UNAVAILABLE as error:
        noise = np.random.default_rng(0).integers(0, 256, (count, *network.shape), dtype=np.uint8)
        unknown = np.full(count, UNLABELLED, np.int32)
        return Examples(noise, unknown, "random pictures", f"no test split: {error}")
    return Examples(dataset.test.image, dataset.test.label, f"the test split of {dataset.name}")


def _of_folder(network: Network, folder: Path) -> Examples:
    height, width, channels = network.shape
    # Only a square can be cut from a picture of any size; others must fit as they are.
    size = height if height == width else None
    dataset = data.folder(folder, size=size, channels=channels, test=0).load()
    split = dataset.test if len(dataset.test) else dataset.train
    if split.shape != network.shape:
        raise ValueError(
            f"{folder}: its pictures are {split.shape[1]}x{split.shape[0]} pixels; "
            f"{network.name} takes {width}x{height}, and only square ones are resized"
        )
    return Examples(
        split.image,
        _renumbered(split.label, dataset.labels, network, folder),
        f"the folder {folder.resolve().name}",
    )


def _renumbered(
    label: np.ndarray, classes: tuple[str, ...], network: Network, folder: Path
) -> np.ndarray:
    """The folder's labels as the network numbers its classes, by name."""
    for name in classes:
        if name not in network.labels:
            hint = did_you_mean(name, network.labels)
            raise ValueError(
                f"{folder / name}: {network.name} has no class of this name{hint} (its classes are "
                f"{', '.join(network.labels[:12])}{', ...' if len(network.labels) > 12 else ''}); "
                "pictures without a class lie in one folder"
            )
    if not classes:
        return label
    return np.array([network.labels.index(name) for name in classes], np.int32)[label]
