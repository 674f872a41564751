"""ONNX graph: names are unique, arrays are stored once, and the model is what was gathered."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from jaxmini.export.onnx_graph import IR_VERSION, OPSET, Graph
from tests.export.onnx_graphs import model_of, run


@given(st.lists(st.sampled_from(["Add", "Mul", "Relu"]), max_size=6), st.sampled_from(["", "net"]))
def test_every_name_is_of_one_node(ops, scope):
    graph = Graph()
    graph.scope = scope
    outputs = [graph.node(op, "image", "image") for op in ops]
    assert len(set(outputs)) == len(outputs)
    assert all(name.startswith(f"{scope}/" if scope else "") for name in outputs)


def test_nodes_of_several_outputs_number_them():
    graph = Graph()
    assert graph.nodes("Split", "image", outputs=2) == ("Split.0", "Split.1")
    assert graph.nodes("Split", "image", outputs=2) == ("Split_1.0", "Split_1.1")
    assert graph.nodes("Relu", "image", outputs=1) == ("Relu",)


def test_an_array_is_stored_once_and_another_type_or_shape_is_another():
    graph = Graph()
    graph.scope = "first"
    name = graph.array("scale", np.float32([0]))
    graph.scope = "second"
    assert graph.array("scale", np.float32([0])) == name == "first/scale"
    others = (np.int32([0]), np.float32(0), np.float32([[0]]), np.float32([-0.0]))
    assert len({graph.array("scale", array) for array in others} | {name}) == 5
    assert graph.integers("axes", (1, 2)) == "second/axes"


def test_the_model_computes_what_was_gathered_under_the_names_given():
    graph = Graph()
    twice = graph.node("Add", "image", "image")
    graph.node("Relu", twice)  # read by nobody; the output is read by one
    result = graph.node("Mul", twice, graph.array("three", np.float32(3)))
    model = model_of(graph, result, (2,), (2,))
    assert [o.version for o in model.opset_import] == [OPSET]
    assert model.ir_version == IR_VERSION
    assert [node.output[0] for node in model.graph.node] == ["Add", "Relu", "logits"]
    (stored,) = model.graph.initializer
    assert numpy_helper.to_array(stored) == 3
    found = run(model, np.float32([1, -2]))
    np.testing.assert_array_equal(found, [6, -12])


def test_an_output_that_others_read_is_renamed_everywhere():
    graph = Graph()
    first = graph.node("Relu", "image")
    graph.node("Neg", first)
    model = model_of(graph, first, (2,), (2,))
    assert [list(node.input) for node in model.graph.node] == [["image"], ["logits"]]


def test_metadata_is_kept_and_a_wrong_graph_is_refused():
    graph = Graph()
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (2,)) for name in ("image", "logits")
    ]
    model = graph.model(*ends, graph.node("Relu", "image"), {"jaxmini": "{}"})
    assert {entry.key: entry.value for entry in model.metadata_props} == {"jaxmini": "{}"}
    broken = Graph()
    with pytest.raises(onnx.checker.ValidationError):
        broken.model(*ends, broken.node("Relu", "nothing"), {})
