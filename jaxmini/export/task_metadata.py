"""Task metadata: what TensorFlow Lite's Task Library, MediaPipe and Android Studio read of a file.

A flatbuffer of metadata_schema.fbs (tensorflow/tflite-support) inside the file says how pixels go in, and a
zip archive behind the file holds the labels.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flatbuffers
import numpy as np

from jaxmini.data.views import Normalization
from jaxmini.export import editing, flatbuffer
from jaxmini.export.flatbuffer import File, Tensor
from jaxmini.export.signature import EMBEDDING, INPUT, OUTPUT, SIGNATURE

NAME = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"
IDENTIFIER = b"M001"
# The first release of the schema has all that is written here.
PARSER_VERSION = "1.0.0"

# Numbers of the schema: members of its unions and enumerations.
FEATURE_PROPERTIES, IMAGE_PROPERTIES = 1, 2
NORMALIZATION_OPTIONS = 1
TENSOR_AXIS_LABELS = 2
COLOR_SPACES = {3: 1, 1: 2}  # channels -> RGB, GRAYSCALE

Field = tuple[int, str, object]
ARCHIVE_DATE = (1980, 1, 1, 0, 0, 0)  # the same labels give the same bytes


class Pixels(NamedTuple):
    """How a reader makes the input of pixels 0..255: ``(pixel - mean) / std``, then the tensor's grid.

    ``low`` and ``high`` are what black and white become.
    """

    mean: float
    std: float
    low: float
    high: float


def add(content: bytes, labels: Sequence[str], normalization: Normalization) -> bytes:
    """The file with its metadata, and with the labels in an archive behind it; the last of all edits.

    Args:
        content: the bytes of a file whose subgraphs take pictures.
        labels: in the order of the logits; none for a file of embeddings.
        normalization: of the network.

    Raises:
        ValueError: a label has a line break in it, which the labels file could not hold.
    """
    for label in labels:
        if len(label.splitlines()) > 1 or "\n" in label:
            raise ValueError(
                f"task metadata: the label {label!r} has a line break in it; rename it"
            )
    files = {key: flatbuffer.read(content, key) for key in flatbuffer.read(content).signatures}
    model = flatbuffer.load(content)
    entry = flatbuffer.schema_module().MetadataT()
    entry.name = NAME.encode()
    entry.buffer = editing.add_buffer(model, _metadata(files, labels, normalization))
    model.metadata = [*(model.metadata or ()), entry]
    return _archived(flatbuffer.dump(model), labels)


def pixels(image: Tensor, normalization: Normalization) -> Pixels:
    """How pixels become a file's input.

    An input that has no grid takes them as they are: the file normalises. On the grid of an integer input
    the normalised pixel is the pixel itself, or ``pixel - 128``.
    """
    if not image.is_quantized:
        return Pixels(0.0, 1.0, 0.0, 255.0)
    ends = np.iinfo(image.dtype)
    mean, std = 255 * normalization.mean, 255 * normalization.std
    return Pixels(mean, std, float(ends.min), float(ends.max))


def _archived(content: bytes, labels: Sequence[str]) -> bytes:
    if not labels:
        return content
    whole = io.BytesIO(content)
    with zipfile.ZipFile(whole, "a") as archive:  # stored as they are: readers map them into memory
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, ARCHIVE_DATE), "\n".join(labels) + "\n")
    return whole.getvalue()


def _metadata(
    files: Mapping[str, File], labels: Sequence[str], normalization: Normalization
) -> bytes:
    builder = flatbuffers.Builder(1024)
    subgraphs = [
        _table(
            builder,
            (2, "tables", [_image(builder, file, normalization)]),
            (3, "tables", [_output(builder, key, labels)]),
        )
        for key, file in files.items()
    ]
    root = _table(
        builder,
        (0, "string", "image classifier" if labels else "image embedder"),
        (3, "tables", subgraphs),
        (7, "string", PARSER_VERSION),
    )
    builder.Finish(root, IDENTIFIER)
    return bytes(builder.Output())


def _image(builder: flatbuffers.Builder, file: File, normalization: Normalization) -> int:
    tensor = file.tensors[file.inputs[0]]
    read = pixels(tensor, normalization)
    properties = _table(builder, (0, "byte", COLOR_SPACES.get(tensor.shape[-1], 0)))
    options = _table(builder, (0, "floats", [read.mean]), (1, "floats", [read.std]))
    unit = _table(builder, (0, "byte", NORMALIZATION_OPTIONS), (1, "table", options))
    return _table(
        builder,
        (0, "string", INPUT),
        (3, "table", _content(builder, IMAGE_PROPERTIES, properties)),
        (4, "tables", [unit]),
        (5, "table", _table(builder, (0, "floats", [read.high]), (1, "floats", [read.low]))),
    )


def _output(builder: flatbuffers.Builder, signature: str, labels: Sequence[str]) -> int:
    fields: list[Field] = [
        (0, "string", OUTPUT if signature == SIGNATURE else EMBEDDING),
        (3, "table", _content(builder, FEATURE_PROPERTIES, _table(builder))),
    ]
    if labels and signature == SIGNATURE:
        associated = _table(
            builder,
            (0, "string", LABELS_FILE),
            (1, "string", "the classes, in the order of the logits"),
            (2, "byte", TENSOR_AXIS_LABELS),
        )
        fields.append((6, "tables", [associated]))
    return _table(builder, *fields)


def _content(builder: flatbuffers.Builder, kind: int, properties: int) -> int:
    return _table(builder, (0, "byte", kind), (1, "table", properties))


def _table(builder: flatbuffers.Builder, *fields: Field) -> int:
    """Write a table; its offset. A field is its slot in the schema, its kind and its value."""
    ready = [(slot, kind, _written(builder, kind, value)) for slot, kind, value in fields]
    builder.StartObject(1 + max((slot for slot, _, _ in ready), default=0))
    for slot, kind, value in ready:
        if kind == "byte":
            builder.PrependInt8Slot(slot, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return builder.EndObject()


def _written(builder: flatbuffers.Builder, kind: str, value: object) -> int:
    """What a table's field holds: the number itself, or the offset of what was written before it."""
    if kind == "string":
        return builder.CreateString(value)
    if kind == "floats":
        return builder.CreateNumpyVector(np.asarray(value, np.float32))
    if kind == "tables":
        builder.StartVector(4, len(value), 4)
        for offset in reversed(value):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    return value
