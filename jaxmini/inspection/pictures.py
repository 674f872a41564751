"""Pictures: the test split an artifact was measured on, found again through its run; else random ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmini import record
from jaxmini.data import Dataset
from jaxmini.export.artifact import Artifact
from jaxmini.run import sealed

RECIPE = "recipe.json"  # in a run's folder, of which an artifact is stages/<name>/artifact
# What ``dataset_of`` raises where there are no pictures to be had.
UNAVAILABLE = (OSError, ImportError, AttributeError, KeyError, TypeError, ValueError)


class Pictures(NamedTuple):
    """Pictures to compare answers on.

    Attributes:
        image: uint8 [N, H, W, C].
        label: int32 [N]; None for random pictures.
        origin: what they are, and for random ones why.
    """

    image: np.ndarray
    label: np.ndarray | None
    origin: str


def pictures_of(artifact: Artifact, folder: Path, count: int) -> Pictures:
    """The first pictures of the artifact's test split, or random ones where it cannot be had.

    Args:
        artifact: what the folder holds.
        folder: of the artifact; the run it belongs to knows where its data come from.
        count: how many pictures at most, at least 1.

    Raises:
        ValueError: ``count`` below 1.
    """
    if count < 1:
        raise ValueError(f"the number of images is {count}; it must be at least 1")
    try:
        dataset = dataset_of(artifact.provenance, folder.resolve().parent.parent.parent)
    except UNAVAILABLE as error:
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (count, *artifact.input_shape), dtype=np.uint8)
        return Pictures(noise, None, f"random pictures (no test split: {error})")
    test = dataset.test
    return Pictures(test.image[:count], test.label[:count], f"the test split of {dataset.name}")


def dataset_of(provenance: Mapping[str, str], run: Path) -> Dataset:
    """The data of the stage that an artifact or a file is of.

    Args:
        provenance: what the artifact or the file says it was made from.
        run: folder of the run that made it.

    Raises:
        OSError, ImportError, AttributeError, KeyError, TypeError, ValueError: it is no run's folder, or its
            data cannot be loaded or are not those of the training.
    """
    stage = provenance.get("stage")
    if not (run / RECIPE).is_file():
        raise ValueError(f"{run} is not the folder of a run")
    stages = sealed.read(run / RECIPE)["recipe"]["stages"]
    if stage not in stages:
        raise ValueError(f"the run {run.name} has no stage {stage!r}")
    dataset = record.rebuild(stages[stage]["data"]).load()
    pictures = f"{dataset.name} {dataset.fingerprint()}"
    if provenance.get("data") != pictures:
        raise ValueError(f"its data are now {pictures}, it was trained on {provenance.get('data')}")
    if not len(dataset.test):
        raise ValueError(f"{dataset.name} has no test split")
    return dataset
