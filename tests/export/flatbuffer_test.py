from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.export import flatbuffer
from jaxmini.export.flatbuffer import dump, load, read
from tests.export.single import single
from tests.export.tampering import edited, find


def test_read_says_what_the_file_holds(integer_bytes: bytes, tmp_path: Path):
    (tmp_path / "f.tflite").write_bytes(integer_bytes)
    file = read(tmp_path / "f.tflite")
    assert file.size == len(integer_bytes)
    assert [op.name for op in file.ops][-2:] == ["MEAN", "FULLY_CONNECTED"]
    assert file.op_counts["CONV_2D"] == 2
    image = file.tensors[file.inputs[0]]
    assert (image.shape, image.dtype) == ((1, 8, 8, 3), np.int8)
    kernel = file.tensors[next(op for op in file.ops if op.name == "CONV_2D").inputs[1]]
    assert kernel.data.shape == kernel.shape == (8, 3, 3, 3)
    assert kernel.scale.shape == kernel.zero_point.shape == (8,)
    assert any(op.activation == "RELU6" for op in file.ops)


def test_dump_of_load_is_the_same_file(integer_bytes: bytes):
    before, after = read(integer_bytes), read(dump(load(integer_bytes)))
    assert before.ops == after.ops
    assert before.metadata == after.metadata
    for ours, theirs in zip(before.tensors, after.tensors, strict=True):
        assert (ours.name, ours.shape) == (theirs.name, theirs.shape)
        np.testing.assert_array_equal(ours.data, theirs.data)


@given(st.floats(0, 0.98))
def test_a_file_cut_short_is_refused(integer_bytes: bytes, part: float):
    with pytest.raises(ValueError, match=r"not a .tflite file|damaged or cut short"):
        read(integer_bytes[: int(part * len(integer_bytes))])


def test_foreign_files_are_refused(tmp_path: Path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"picture.png: not a .tflite file"):
        read(tmp_path / "picture.png")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing.tflite")


def test_types_and_sizes_that_do_not_fit_are_refused(integer_bytes: bytes):
    def odd_type(model: Any, graph: Any) -> None:
        graph.tensors[0].type = 8

    def odd_shape(model: Any, graph: Any) -> None:
        kernel = graph.tensors[find(model, "CONV_2D").inputs[1]]
        kernel.shape = np.array([1, 2], np.int32)

    with pytest.raises(
        ValueError,
        match=r"tensor '\w[^']*' has the type COMPLEX64, which is not supported: convert",
    ):
        read(edited(integer_bytes, odd_type))
    with pytest.raises(ValueError, match=r"tensor '\w[^']*' stores .* bytes"):
        read(edited(integer_bytes, odd_shape))
    with pytest.raises(
        ValueError,
        match="2 subgraphs; what is read are files of one .*: unroll the loops of the model",
    ):
        read(edited(integer_bytes, lambda model, graph: model.subgraphs.append(graph)))


def test_tensors_that_are_not_there_are_refused(integer_bytes: bytes):
    def one_too_far(model: Any, graph: Any) -> None:
        find(model, "ADD").inputs[1] = len(graph.tensors)

    with pytest.raises(ValueError, match="model bytes: .*damaged .it names tensor"):
        read(edited(integer_bytes, one_too_far))


@pytest.mark.parametrize(
    ("number", "told"), [(5, "STRING"), (11, "COMPLEX128"), (13, "RESOURCE"), (99, "99")]
)
def test_a_type_that_is_not_read_is_called_by_its_name(
    number: int, told: str, integer_bytes: bytes
):
    def odd_type(model: Any, graph: Any) -> None:
        graph.tensors[1].type, graph.tensors[1].name = number, b"words"

    with pytest.raises(ValueError, match=f"tensor 'words' has the type {told}, which is not"):
        read(edited(integer_bytes, odd_type))


def test_a_name_that_is_no_text_is_a_damage(integer_bytes: bytes):
    def odd_name(model: Any, graph: Any) -> None:
        graph.tensors[1].name = b"\xff\xfe"

    with pytest.raises(ValueError, match="model bytes: the .tflite file is damaged or cut short"):
        read(edited(integer_bytes, odd_name))


def called_by(index: int) -> bytes:
    """A file of two subgraphs with ABS each; the first one's is made an IF that runs ``index`` twice."""

    def call(model: Any, graph: Any) -> None:
        schema = flatbuffer.schema_module()
        model.subgraphs.append(flatbuffer.load(bytearray(single("ABS"))).subgraphs[0])
        model.subgraphs[1].operators[0].opcodeIndex = 0
        (op,) = graph.operators
        op.builtinOptionsType = schema.BuiltinOptions.IfOptions
        op.builtinOptions = schema.IfOptionsT()
        op.builtinOptions.thenSubgraphIndex = op.builtinOptions.elseSubgraphIndex = index

    return edited(single("ABS"), call)


def test_subgraphs_that_operators_run_are_read_where_they_are_asked_for():
    content = called_by(1)
    file = read(content, calls=True)
    assert (file.ops[0].calls, list(file.called)) == ((1, 1), [1])
    assert file.called[1].ops[0].name == "ABS"
    with pytest.raises(ValueError, match="2 subgraphs; what is read are files of one"):
        read(content)


@pytest.mark.parametrize(
    ("index", "said"), [(0, "subgraph 0 runs itself"), (7, "names subgraph 7; there are 2")]
)
def test_subgraphs_that_cannot_be_run_are_refused(index: int, said: str):
    with pytest.raises(ValueError, match=f"model bytes: .*damaged .*{said}"):
        read(called_by(index), calls=True)
