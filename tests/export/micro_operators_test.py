"""What TFLite-Micro runs: the table beside the interpreter itself, and what is said of the rest."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxmini.export import Artifact, Exported, Layout, arena, flatbuffer, run_micro, tflite
from jaxmini.export.arena import MicroError
from jaxmini.export.micro_operators import (
    ALTERNATIVES,
    FLOAT_ONLY,
    KNOWN,
    adder,
    float_operators,
    obstacles,
)
from tests.export.single import SHAPE, single
from tests.export.tampering import edited, find, set_code

installed = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="needs jaxmini[micro]"
)
UNKNOWN = ("GELU", "POW", "RELU_0_TO_1", "RELU_N1_TO_1", "SELECT")
# Of one input and one output of the same shape, without options that must be there.
UNARY = ("ABS", "ELU", "HARD_SWISH", "LOG_SOFTMAX", "LOGISTIC", "RELU", "RELU6", "RSQRT", "TANH")
FIXED = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0), "LOG_SOFTMAX": (16 / 256, 127)}


def obstacles_of(content: bytes) -> tuple[str, ...]:
    return obstacles(flatbuffer.read(content))


def runs(content: bytes) -> bool:
    try:
        made = run_micro.interpreter(content, 1 << 16)
        made.set_input(np.ones(SHAPE, made.get_input_details(0)["dtype"]), 0)
        made.invoke()
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("MAX_POOL_2D", "AddMaxPool2D"),
        ("L2_POOL_2D", "AddL2Pool2D"),
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("ADD", "AddAdd"),
        ("ADD_N", "AddAddN"),
        ("PADV2", "AddPadV2"),
        ("REVERSE_V2", "AddReverseV2"),
        ("BATCH_MATMUL", "AddBatchMatMul"),
        ("SPACE_TO_BATCH_ND", "AddSpaceToBatchNd"),
        ("RESIZE_NEAREST_NEIGHBOR", "AddResizeNearestNeighbor"),
        ("RELU6", "AddRelu6"),
        ("CUMSUM", "AddCumSum"),
    ],
)
def test_the_methods_of_the_resolver(name: str, method: str):
    assert adder(name) == method


def test_the_tables_speak_of_operators_that_there_are():
    schema = vars(flatbuffer.schema_module().BuiltinOperator)
    assert KNOWN | set(ALTERNATIVES) <= schema.keys()
    assert FLOAT_ONLY <= KNOWN
    assert len({adder(name) for name in KNOWN}) == len(KNOWN) == 100


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_operator_it_does_not_have_is_named_with_an_alternative(name: str):
    (said,) = obstacles_of(single(name))
    assert said == (f"{name} is not an operator of TFLite-Micro: {ALTERNATIVES[name]} (operator 0)")


@pytest.mark.parametrize("name", sorted(FLOAT_ONLY - {"FLOOR_DIV"}))
def test_an_operator_of_floats_alone_is_named_where_it_has_integers(name: str):
    (said,) = obstacles_of(single(name))
    assert said.startswith(f"{name} has no integer kernel in TFLite-Micro: ")
    assert obstacles_of(single(name, np.float32)) == ()


@installed
@pytest.mark.parametrize("name", [*sorted(FLOAT_ONLY - {"FLOOR_DIV"}), *UNKNOWN, *UNARY])
@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_the_table_says_what_the_interpreter_does(name: str, dtype: type):
    content = single(name, dtype, FIXED.get(name, (0.02, -3)))
    assert runs(content) == (not obstacles_of(content))


def with_kernels(file: flatbuffer.File, name: str, **numbers: object) -> flatbuffer.File:
    """The file with kernels of other numbers in its operators of a name."""
    tensors = list(file.tensors)
    for index in (op.inputs[1] for op in file.ops if op.name == name):
        tensors[index] = dataclasses.replace(tensors[index], **numbers)
    return dataclasses.replace(file, tensors=tuple(tensors))


def test_weights_of_other_formats_than_integers_are_named(convert: Callable[..., Exported]):
    (said,) = obstacles_of(convert("float16", "litert").path.read_bytes())
    assert said.startswith("DEQUANTIZE reads float16 weights, which TFLite-Micro does not widen")
    assert said.endswith("(operators 0, 1, 2, 3 and 5 more)")
    floats = flatbuffer.read(convert("float32", "litert").path)
    (said,) = obstacles(with_kernels(floats, "CONV_2D", dtype=np.dtype(np.int8)))
    assert "CONV_2D multiplies floats by int8, which TFLite-Micro does not: train" in said


def test_dense_layers_of_four_bits_are_named(integer_bytes: bytes):
    file = flatbuffer.read(integer_bytes)
    (said,) = obstacles(with_kernels(file, "FULLY_CONNECTED", bits=4))
    assert "FULLY_CONNECTED has an int4 kernel with a scale for each channel" in said
    assert "give it one scale, or 8 bits" in said
    assert obstacles(with_kernels(file, "CONV_2D", bits=4)) == ()


def test_layouts_that_it_does_not_run_are_named(float_artifact: Artifact, tmp_path: Path):
    def written(**layout: object) -> bytes:
        path = tmp_path / "net.tflite"
        return tflite(
            float_artifact, path, backend="litert", layout=Layout(**layout)
        ).path.read_bytes()

    assert obstacles_of(written(batch=2)) == ()
    (said,) = obstacles_of(written(input="uint8"))
    assert said.startswith("CAST reads uint8, which TFLite-Micro does not: ")
    (said,) = obstacles_of(written(embedding="Dense_0"))
    assert said == "it has the signatures serving_default, embedding; one is expected"


def test_a_file_of_integers_has_no_obstacle_and_one_of_floats_says_where(
    integer_bytes: bytes, convert: Callable[..., Exported]
):
    assert obstacles_of(integer_bytes) == float_operators(flatbuffer.read(integer_bytes)) == ()
    file = flatbuffer.read(convert("float32", "litert").path)
    assert obstacles(file) == ()
    said = "\n".join(float_operators(file))
    assert "CONV_2D computes in floats: train the network with quantize=int8() and export" in said


def test_several_inputs_are_told():
    def twice(model, graph) -> None:
        graph.inputs = np.array([0, 0], np.int32)

    assert obstacles_of(edited(single("ABS"), twice)) == ("it has 2 inputs; one is expected",)


def test_all_obstacles_are_told_at_once(integer_bytes: bytes):
    def several(model, graph) -> None:
        set_code(model, find(model, "ADD"), 150)
        set_code(model, find(model, "MEAN"), 75)

    content = edited(integer_bytes, several)
    with pytest.raises(MicroError, match=r"net: .*\n  GELU is .*\n  SQRT has ") as caught:
        arena.require_known(flatbuffer.read(content), "net")
    assert len(caught.value.reasons) == 2
