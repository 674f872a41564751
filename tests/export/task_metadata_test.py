import io
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from flatbuffers.number_types import Float32Flags, Int8Flags, UOffsetTFlags
from flatbuffers.table import Table

from jaxmini.data import Normalization
from jaxmini.evaluate.runtime import tflite_predict
from jaxmini.export import Artifact, edges, flatbuffer, task_metadata
from tests.export.conftest import LABELS, NORMALIZATION


class Reader(Table):
    """A table of the schema, read by the numbers of its fields: nothing is shared with the writer."""

    def at(self, slot: int) -> int:
        return self.Offset(4 + 2 * slot)

    def table(self, slot: int) -> "Reader":
        return Reader(self.Bytes, self.Indirect(self.at(slot) + self.Pos))

    def tables(self, slot: int) -> list["Reader"]:
        start = self.Vector(self.at(slot))
        count = self.VectorLen(self.at(slot)) if self.at(slot) else 0
        return [Reader(self.Bytes, self.Indirect(start + 4 * i)) for i in range(count)]

    def text(self, slot: int) -> str:
        return self.String(self.at(slot) + self.Pos).decode()

    def byte(self, slot: int) -> int:
        return self.Get(Int8Flags, self.at(slot) + self.Pos) if self.at(slot) else 0

    def floats(self, slot: int) -> np.ndarray:
        return self.GetVectorAsNumpy(Float32Flags, self.at(slot))


def metadata_of(content: bytes) -> Reader:
    data = flatbuffer.read(content).metadata[task_metadata.NAME]
    assert data[4:8] == b"M001"
    return Reader(data, flatbuffers.encode.Get(UOffsetTFlags.packer_type, data, 0))


def subgraphs(content: bytes) -> list[Reader]:
    return metadata_of(content).tables(3)


@pytest.mark.parametrize(
    ("input", "mean", "std", "low", "high"),
    [
        ("int8", 102, 76.5, -128, 127),
        ("uint8", 102, 76.5, 0, 255),
        ("float32", 0, 1, 0, 255),
    ],
)
def test_readers_make_the_pixels_the_file_takes(
    input: str, mean: float, std: float, low: float, high: float, integer_bytes: bytes
):
    content = edges.with_edges(integer_bytes, input=input, output="int8")
    content = task_metadata.add(content, LABELS, NORMALIZATION)
    ((image,),) = (graph.tables(2) for graph in subgraphs(content))
    assert image.text(0) == "image"
    assert (image.table(3).byte(0), image.table(3).table(1).byte(0)) == (2, 1)  # an image, RGB
    (unit,) = image.tables(4)
    assert unit.byte(0) == 1  # NormalizationOptions
    stated = [unit.table(1).floats(0), unit.table(1).floats(1)]
    np.testing.assert_allclose(stated, [[mean], [std]], rtol=1e-6)
    assert (image.table(5).floats(1), image.table(5).floats(0)) == ([low], [high])
    # What a reader does: normalise, then round onto the tensor's grid.
    file = flatbuffer.read(content)
    tensor, pixels = file.tensors[file.inputs[0]], np.arange(256, dtype=np.float64)
    values = (pixels - stated[0]) / stated[1]
    if tensor.is_quantized:
        values = np.round(values / tensor.scale) + tensor.zero_point
    np.testing.assert_array_equal(values, pixels + low)


def test_labels_are_an_archive_behind_the_file(integer_bytes: bytes):
    content = task_metadata.add(integer_bytes, LABELS, NORMALIZATION)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == list(LABELS)
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED
    ((logits,),) = (graph.tables(3) for graph in subgraphs(content))
    (labels,) = logits.tables(6)
    assert (labels.text(0), labels.byte(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS
    assert content == task_metadata.add(integer_bytes, LABELS, NORMALIZATION)


def test_a_file_of_embeddings_has_no_labels(integer_bytes: bytes):
    content = task_metadata.add(integer_bytes, (), NORMALIZATION)
    assert not zipfile.is_zipfile(io.BytesIO(content))
    ((output,),) = (graph.tables(3) for graph in subgraphs(content))
    assert not output.tables(6)


def test_a_label_of_two_lines_is_refused(integer_bytes: bytes):
    with pytest.raises(ValueError, match=r"'b\\nc' has a line break"):
        task_metadata.add(integer_bytes, ("a", "b\nc"), Normalization(0.5, 0.5))


def test_the_file_answers_as_before(
    integer_artifact: Artifact, images: np.ndarray, everything: Path
):
    assert {"jaxmini", task_metadata.NAME} <= flatbuffer.read(everything).metadata.keys()
    assert [t.text(0) for g in subgraphs(everything.read_bytes()) for t in g.tables(3)] == [
        "logits",
        "embedding",
    ]
    assert tflite_predict(everything)(images).shape == (len(images), len(LABELS))
