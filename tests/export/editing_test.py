"""Editing: what is added to a file is read back from it, and nothing else in it changes."""

from typing import Any

import numpy as np
import pytest

from jaxmini.export import editing, flatbuffer
from jaxmini.export.flatbuffer import read, schema_module
from tests.export.single import SHAPE, single

CONTENT = single("ABS")


@pytest.fixture
def model() -> Any:
    return flatbuffer.load(bytearray(CONTENT))


def test_the_types_are_those_of_the_schema():
    types = schema_module().TensorType
    for name in ("FLOAT32", "UINT8", "INT8", "INT4"):
        assert getattr(editing, name) == getattr(types, name)


def test_a_tensor_has_the_shape_of_another_and_a_grid_of_its_own(model: Any):
    graph = model.subgraphs[0]
    like = graph.tensors[0]
    plain = editing.add_tensor(graph, "plain", like, editing.FLOAT32)
    gridded = editing.add_tensor(graph, "gridded", like, editing.UINT8, (0.5, 7))
    file = read(flatbuffer.dump(model))
    assert (plain, gridded) == (2, 3)
    first, second = file.tensors[plain], file.tensors[gridded]
    assert (first.name, first.shape, first.dtype) == ("plain", SHAPE, np.float32)
    assert not first.is_quantized
    assert (second.name, second.dtype, second.scale, second.zero_point) == (
        "gridded",
        np.uint8,
        0.5,
        7,
    )
    assert file.tensors[0].dtype == np.int8
    assert first.data is None


def test_a_number_is_stored_as_it_is(model: Any):
    index = editing.add_number(model, model.subgraphs[0], "third", np.float32(1 / 3))
    stored = read(flatbuffer.dump(model)).tensors[index]
    assert (stored.shape, stored.dtype, stored.data) == ((), np.float32, np.float32(1 / 3))


def test_bytes_are_stored_for_one_tensor_alone(model: Any):
    graph = model.subgraphs[0]
    first = editing.add_number(model, graph, "first", np.float32(1))
    second = editing.add_number(model, graph, "second", np.float32(2))
    graph.tensors[second].buffer = graph.tensors[first].buffer
    shared, count = graph.tensors[first].buffer, len(model.buffers)
    editing.store(model, graph.tensors[second], np.float32(5).tobytes())
    file = read(flatbuffer.dump(model))
    assert (file.tensors[first].data, file.tensors[second].data) == (1, 5)
    assert (file.tensors[first].buffer, file.tensors[second].buffer) == (shared, count)
    # Alone in its buffer now, it is stored in place.
    editing.store(model, graph.tensors[second], np.float32(6).tobytes())
    assert read(flatbuffer.dump(model)).tensors[second].data == 6
    assert len(model.buffers) == count + 1


def test_an_operator_is_named_and_its_code_is_added_once(model: Any):
    graph, codes = model.subgraphs[0], len(model.operatorCodes)
    added = editing.add_tensor(graph, "a", graph.tensors[0], editing.INT8, (1.0, 0))
    for _ in range(2):
        op = editing.operator(model, "GELU", 2, [1], [added], "GeluOptions")
        graph.operators.append(op)
    file = read(flatbuffer.dump(model))
    assert [op.name for op in file.ops] == ["ABS", "GELU", "GELU"]
    assert (file.ops[1].inputs, file.ops[1].outputs) == ((1,), (added,))
    assert len(model.operatorCodes) == codes + 1
    code = model.operatorCodes[-1]
    gelu = schema_module().BuiltinOperator.GELU
    assert (code.builtinCode, code.deprecatedBuiltinCode, code.version) == (gelu, 127, 2)
    assert type(graph.operators[-1].builtinOptions).__name__ == "GeluOptionsT"
    assert editing.operator(model, "NEG", 1, [0], [1]).builtinOptions is None


def test_a_version_is_raised_for_one_operator_and_never_lowered(model: Any):
    graph = model.subgraphs[0]
    (first,) = graph.operators
    second = editing.operator(model, "ABS", 1, [0], [1])
    assert second.opcodeIndex == first.opcodeIndex

    def version(op: Any) -> int:
        return model.operatorCodes[op.opcodeIndex].version

    editing.require_version(model, first, 3)
    assert (version(first), version(second)) == (3, 1)
    editing.require_version(model, first, 2)
    assert version(first) == 3
    assert flatbuffer.op_name(model, first) == "ABS"
    editing.require_version(model, second, 3)
    assert second.opcodeIndex == first.opcodeIndex


def test_an_unknown_operator_is_no_silent_number(model: Any):
    with pytest.raises(AttributeError, match="NO_SUCH"):
        editing.operator(model, "NO_SUCH", 1, [0], [1])
