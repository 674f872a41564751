"""Network: a .tflite file as a page must know it: how pixels go in, and how answers come out."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxmini.evaluate import encoding, native
from jaxmini.evaluate.interpreter import Interpreter, require_ends
from jaxmini.export import flatbuffer, metadata

# How a pixel 0..255 goes in, by the input's dtype.
ENCODINGS = {dtype: metadata.ENCODINGS[dtype] for dtype in encoding.PIXELS}
# What is taken from a pixel before it is written.
OFFSETS = {"pixel": 0, "pixel - 128": 128}
OUTPUTS = ("float32", "int8", "uint8")


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A classifier of pictures in a file.

    Attributes:
        name: of the file.
        content: its bytes.
        image: its input tensor, [1, H, W, C] with C = 1 or 3.
        scores: its output tensor, [1, classes].
        labels: a name for each class; the classes' numbers where the file has none.
        description: what the file says of itself; empty for a file that jaxmini did not write.
        gives_probabilities: the last operator is a softmax.
    """

    name: str
    content: bytes
    image: flatbuffer.Tensor
    scores: flatbuffer.Tensor
    labels: tuple[str, ...]
    description: dict[str, Any]
    gives_probabilities: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a picture."""
        return self.image.shape[1:]

    @property
    def encoding(self) -> str:
        """How a pixel goes in: a key of ``OFFSETS``."""
        return ENCODINGS[self.image.dtype.name]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def provenance(self) -> dict[str, str]:
        """What the file was made from, as it says itself."""
        return self.description.get("provenance", {})


def read(path: Path) -> Network:
    """The network of a file, which is run once in a process of its own: a damaged one may crash.

    Raises:
        ValueError: not a .tflite file, damaged, or not a classifier of pictures; names the file.
        OSError: it cannot be read.
    """
    file, content = flatbuffer.read(path), path.read_bytes()
    require_ends(file, str(path))
    image, scores = file.tensors[file.inputs[0]], file.tensors[file.outputs[0]]
    _require_classifier(image, scores, path)
    description = metadata.describe_file(path) if metadata.NAME in file.metadata else {}
    native.require_runs(content, str(path), "xnnpack")
    return Network(
        name=path.name,
        content=content,
        image=image,
        scores=scores,
        labels=_labels(description, image, scores.shape[-1], path),
        description=description,
        gives_probabilities=_is_softmax(file.producer(file.outputs[0])),
    )


def answers(network: Network, images: np.ndarray) -> np.ndarray:
    """The interpreter's answers to uint8 pictures [N, H, W, C], as the file gives them: [N, classes].

    Raises:
        ValueError: pictures of another shape or type; an answer is not finite.
    """
    interpreter = Interpreter(network.content)
    found = np.stack([interpreter.run(each[None])[0] for each in encoded(network, images)])
    wrong = np.flatnonzero(~np.isfinite(found).all(-1))
    if len(wrong):
        raise ValueError(f"{network.name}: its answer to picture {wrong[0]} is not finite")
    return found


def encoded(network: Network, images: np.ndarray) -> np.ndarray:
    """uint8 pictures [N, H, W, C] as the file's input takes them.

    Raises:
        ValueError: pictures of another shape or type.
    """
    if images.dtype != np.uint8 or images.shape[1:] != network.shape:
        raise ValueError(
            f"{network.name}: expected uint8 pictures {list(network.shape)}, "
            f"got {images.dtype}{list(images.shape[1:])}"
        )
    return encoding.encoded(images, network.image.dtype)


def _require_classifier(image: flatbuffer.Tensor, scores: flatbuffer.Tensor, path: Path) -> None:
    if len(image.shape) != 4 or image.shape[0] != 1 or image.shape[3] not in (1, 3):
        raise ValueError(
            f"{path}: its input is {list(image.shape)}; a demo needs pictures [1, H, W, C] with "
            "C = 1 (grey) or 3 (RGB)"
        )
    if image.dtype.name not in ENCODINGS:
        raise ValueError(
            f"{path}: its input is {image.dtype}; a demo can give it {', '.join(ENCODINGS)}"
        )
    if len(scores.shape) != 2 or scores.shape[0] != 1 or scores.shape[1] < 2:
        raise ValueError(
            f"{path}: its output is {list(scores.shape)}; a demo needs scores [1, classes] of at "
            "least 2 classes"
        )
    if scores.dtype.name not in OUTPUTS:
        raise ValueError(f"{path}: its output is {scores.dtype}; a demo reads {', '.join(OUTPUTS)}")


def _labels(
    description: dict[str, Any], image: flatbuffer.Tensor, classes: int, path: Path
) -> tuple[str, ...]:
    """The file's class names, after a look whether the description can be of this file."""
    if not description:
        return tuple(map(str, range(classes)))
    try:
        stated, labels = description["input"]["encoding"], tuple(map(str, description["labels"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: its metadata is damaged ({error!r})") from error
    if stated != ENCODINGS[image.dtype.name]:
        raise ValueError(
            f"{path}: its metadata says that its {image.dtype} input takes {stated!r}; damaged"
        )
    if labels and len(labels) != classes:
        raise ValueError(
            f"{path}: its metadata names {len(labels)} classes, and it has {classes} outputs; damaged"
        )
    return labels or tuple(map(str, range(classes)))


def _is_softmax(op: flatbuffer.Op | None) -> bool:
    return op is not None and op.name == "SOFTMAX"
