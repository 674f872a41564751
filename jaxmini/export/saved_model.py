"""saved_model: an artifact as a TensorFlow SavedModel, its variables beside the graph, of any batch.

How its input is read stands in ``assets.extra``, the folder that the format leaves to others.
"""

import dataclasses
import json
from pathlib import Path

from jaxmini.export import jax2tf, metadata
from jaxmini.export import signature as names
from jaxmini.export.artifact import Artifact, pixel_function, require_numbers
from jaxmini.record import Json

DESCRIPTION = Path("assets.extra", "jaxmini.json")


def saved_model(artifact: Artifact, folder: Path | str) -> Path:
    """Write an artifact as a SavedModel: float32 ``image``, pixels 0..255 of any batch -> ``logits``.

    Args:
        artifact: of any model that can be lowered for an open batch.
        folder: made if it does not exist; a SavedModel in it is replaced.

    Raises:
        TypeError: not an artifact.
        ImportError: TensorFlow is not installed.
        ConversionError: jax2tf failed.
    """
    require_numbers("saved_model", artifact)
    folder = Path(folder)
    jax2tf.saved_model(pixel_function(artifact), artifact.variables, artifact.input_spec(1), folder)
    path = folder / DESCRIPTION
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(_description(artifact), indent=2) + "\n")
    return folder


def describe_saved_model(folder: Path | str) -> dict[str, Json]:
    """What a SavedModel that ``saved_model`` wrote says of itself: as ``describe_file``.

    Raises:
        FileNotFoundError: the folder holds no SavedModel of jaxmini's.
        ValueError: what it says is damaged.
    """
    path = Path(folder) / DESCRIPTION
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no SavedModel that jaxmini wrote: {DESCRIPTION} is missing"
        )
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    if not isinstance(description, dict):
        raise ValueError(f"{path}: damaged (no names are in it)")
    return description


def _description(artifact: Artifact) -> dict[str, Json]:
    return {
        "labels": list(artifact.labels),
        "normalization": dataclasses.asdict(artifact.normalization),
        "input": {
            "name": names.INPUT,
            "shape": [None, *artifact.input_shape],
            "dtype": "float32",
            "encoding": metadata.ENCODINGS["float32"],
        },
        "output": {"name": names.OUTPUT, "dtype": "float32"},
        "signature": names.SIGNATURE,
        "variant": "float32",
        "backend": "saved_model",
        "provenance": dict(artifact.provenance),
    }
