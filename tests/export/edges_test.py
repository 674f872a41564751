from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxmini.export import Artifact, ConstraintError, ParityError, edges, flatbuffer
from jaxmini.export.constraints import check_integer
from jaxmini.export.integer import integer_form
from jaxmini.export.parity import check
from tests.export.tampering import change, edited, find

ENDS = [("uint8", "int8"), ("float32", "int8"), ("int8", "float32"), ("float32", "float32")]
STEPS = {"int8": [], "uint8": ["QUANTIZE"], "float32": ["SUB", "MUL", "QUANTIZE"]}


def names(file: flatbuffer.File) -> list[str]:
    return [op.name for op in file.ops]


@pytest.mark.parametrize(("input", "output"), ENDS)
def test_ends_are_added_and_looked_through(
    input: str, output: str, integer_bytes: bytes, integer_artifact: Artifact
):
    content = edges.with_edges(integer_bytes, input=input, output=output)
    file, before = flatbuffer.read(content), flatbuffer.read(integer_bytes)
    last = ["DEQUANTIZE"] * (output == "float32")
    assert names(file) == STEPS[input] + names(before) + last
    assert names(edges.core(file)) == names(before)
    check_integer(content, input=input, output=output)
    form = integer_form(integer_artifact)
    assert check(content, *form) == check(integer_bytes, *form)


def test_ends_that_are_wanted_as_they_are_change_nothing(integer_bytes: bytes):
    assert edges.with_edges(integer_bytes, input="int8", output="int8") is integer_bytes
    file = flatbuffer.read(integer_bytes)
    assert edges.core(file) == file or names(edges.core(file)) == names(file)


def test_a_file_without_an_integer_core_is_left_as_it_is(convert: Callable):
    file = flatbuffer.read(convert("float32", "litert").path)
    assert edges.core(file).inputs == file.inputs
    assert names(edges.core(file)) == names(file)


@pytest.mark.parametrize(("input", "output"), ENDS)
def test_ends_that_were_not_asked_for_are_refused(input: str, output: str, integer_bytes: bytes):
    content = edges.with_edges(integer_bytes, input=input, output=output)
    with pytest.raises(ConstraintError, match=r"its (input|output) is (uint8|float32), not int8"):
        check_integer(content)


def test_ends_that_were_asked_for_must_be_there(integer_bytes: bytes):
    with pytest.raises(ConstraintError, match="its input is int8, not uint8"):
        check_integer(integer_bytes, input="uint8")


def pixel_grid(model: Any, graph: Any) -> None:
    graph.tensors[graph.inputs[0]].quantization.zeroPoint[0] += 1


def mean(model: Any, graph: Any) -> None:
    tensor = graph.tensors[find(model, "SUB").inputs[1]]
    change(model, tensor, 0, 99, np.float32)


def rectified(model: Any, graph: Any) -> None:
    find(model, "MUL").builtinOptions.fusedActivationFunction = 1


@pytest.mark.parametrize(
    ("input", "tamper", "message"),
    [
        ("uint8", pixel_grid, r"input: \(scale, zero point\) of its uint8 pixels is"),
        ("float32", mean, r"input: its normalisation is \(pixel - 99.0\)"),
        ("float32", rectified, r"input: \(scale, zero point\) is"),
    ],
)
def test_wrong_ends_are_found(
    input: str,
    tamper: Callable,
    message: str,
    integer_bytes: bytes,
    integer_artifact: Artifact,
):
    content = edited(edges.with_edges(integer_bytes, input=input, output="int8"), tamper)
    with pytest.raises(ParityError, match=message):
        check(content, *integer_form(integer_artifact))


def two_inputs(model: Any, graph: Any) -> None:
    graph.inputs = np.asarray([*graph.inputs, *graph.inputs], np.int32)


def without_grid(model: Any, graph: Any) -> None:
    graph.tensors[graph.inputs[0]].quantization = None


def without_inputs(model: Any, graph: Any) -> None:
    find(model, "DEQUANTIZE").inputs = np.zeros(0, np.int32)


@pytest.mark.parametrize("tamper", [two_inputs, without_grid, without_inputs])
def test_damaged_ends_are_no_ends(tamper: Callable, integer_bytes: bytes):
    content = edges.with_edges(integer_bytes, input="uint8", output="float32")
    file = flatbuffer.read(edited(content, tamper))
    left = {op.name for op in edges.core(file).ops} & {"QUANTIZE", "DEQUANTIZE"}
    assert left
    with pytest.raises(ConstraintError):
        check_integer(file, input="uint8", output="float32")
