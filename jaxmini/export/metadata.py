"""What a file says of itself: labels, how pixels go in and logits come out, and where it comes from.

It is one JSON entry named ``jaxmini`` inside the .tflite file, so a file is enough to run it rightly.
"""

import json
from pathlib import Path

import numpy as np

from jaxmini.export import flatbuffer
from jaxmini.record import Json

NAME = "jaxmini"

# How a pixel 0..255 is written into the input, by the input's dtype; the mean is the normalisation's, 0..1.
ENCODINGS = {
    "float32": "pixel",
    "uint8": "pixel",
    "int8": "pixel - 128",
    "int16": "pixel - 255 * mean",
}


def write(content: bytes, description: Json) -> bytes:
    """The file with the description as its metadata entry; one written before is replaced.

    Args:
        content: the bytes of a .tflite file.
        description: anything JSON can hold.
    """
    schema = flatbuffer.schema_module()
    model = flatbuffer.load(content)
    text = json.dumps(description, sort_keys=True, allow_nan=False).encode()
    entries = model.metadata = list(model.metadata or ())
    entry = next((entry for entry in entries if entry.name.decode() == NAME), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = NAME.encode(), len(model.buffers)
        model.buffers.append(schema.BufferT())
        entries.append(entry)
    model.buffers[entry.buffer].data = np.frombuffer(text, np.uint8)
    return flatbuffer.dump(model)


def describe_file(source: Path | str | bytes) -> dict[str, Json]:
    """What a file that ``tflite`` wrote says of itself, read from the file alone.

    Returns:
        ``labels``, ``normalization`` (``mean``, ``std``), ``input`` and ``output`` (``name``, ``shape``,
        ``dtype``, how they are read), ``variant``, ``backend``, ``provenance``; where there are some,
        ``embedding``, and ``kernels`` with how each is stored.

    Raises:
        ValueError: not a .tflite file, or one that jaxmini did not write, or damaged; names the file.
    """
    file = flatbuffer.read(source)
    _, where = flatbuffer.contents(source)
    if NAME not in file.metadata:
        raise ValueError(
            f"{where}: holds no {NAME!r} metadata, so how its input and output are read is unknown; "
            "it was not written by jaxmini.export.tflite"
        )
    try:
        description = json.loads(file.metadata[NAME])
    except ValueError as error:
        raise ValueError(f"{where}: its {NAME!r} metadata is damaged ({error})") from error
    if not isinstance(description, dict):
        raise ValueError(f"{where}: its {NAME!r} metadata is damaged (no names are in it)")
    return description
