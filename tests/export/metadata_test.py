"""Metadata: what was written into a file comes out of it; anything else is told with the file's name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.export import metadata
from jaxmini.export.flatbuffer import load, read
from tests.export.single import single
from tests.export.tampering import edited

CONTENT = single("ABS")
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
).filter(lambda value: "inf" not in repr(value))


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_any_description_comes_back(description: dict):
    content = metadata.write(CONTENT, description)
    assert metadata.describe_file(content) == description
    before, after = read(CONTENT), read(content)
    assert before.ops == after.ops
    assert [t.name for t in before.tensors] == [t.name for t in after.tensors]


def test_a_description_is_replaced_and_leaves_nothing():
    def others(model: Any, graph: Any) -> None:
        entry = type(load(metadata.write(CONTENT, {})).metadata[0])()
        entry.name, entry.buffer = b"min_runtime_version", 0
        model.metadata = [entry]

    foreign = edited(CONTENT, others)
    once = metadata.write(foreign, {"labels": ["β", "γ"]})
    assert read(once).metadata.keys() == {"min_runtime_version", "jaxmini"}
    twice = metadata.write(metadata.write(foreign, {"labels": ["a"] * 99}), {"labels": ["β", "γ"]})
    assert twice == once
    assert metadata.describe_file(twice) == {"labels": ["β", "γ"]}


def test_what_is_not_json_is_refused_before_it_is_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        metadata.write(CONTENT, {"scale": float("nan")})
    with pytest.raises(TypeError, match="float32"):
        metadata.write(CONTENT, {"scale": np.float32(1)})


def test_a_file_without_our_metadata_is_told_so(tmp_path: Path):
    path = tmp_path / "foreign.tflite"
    path.write_bytes(CONTENT)
    with pytest.raises(ValueError, match=r"foreign.tflite: holds no 'jaxmini' metadata"):
        metadata.describe_file(path)


@pytest.mark.parametrize("text", [b'{"labels": [', b"\xff{}", b"[1, 2]", b"", b"3"])
def test_damaged_metadata_is_told_with_the_file(text: bytes, tmp_path: Path):
    def damage(model: Any, graph: Any) -> None:
        (entry,) = model.metadata
        model.buffers[entry.buffer].data = np.frombuffer(text, np.uint8)

    path = tmp_path / "damaged.tflite"
    path.write_bytes(edited(metadata.write(CONTENT, {"labels": []}), damage))
    with pytest.raises(ValueError, match=r"damaged\.tflite: its 'jaxmini' metadata is damaged"):
        metadata.describe_file(path)


def test_pixels_are_written_as_the_encoding_of_the_type_says():
    """What a file tells of its input is what ``evaluate`` does."""
    from jaxmini.evaluate.encoding import encoded

    pixels = np.array([0, 1, 128, 255], np.uint8)
    for dtype, said in metadata.ENCODINGS.items():
        expected = eval(said, {"pixel": pixels.astype(int), "mean": 0.4})
        np.testing.assert_allclose(encoded(pixels, np.dtype(dtype), mean=102), expected)
