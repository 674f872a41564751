"""The cost of a file is that of the net it was made from, in every number format."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini.evaluate.cost import cost
from jaxmini.evaluate.file_cost import OpCost, file_cost
from jaxmini.export import flatbuffer, tflite
from jaxmini.export.flatbuffer import File, Op, Tensor
from jaxmini.model import from_linen
from tests.evaluate.conftest import Plain, without_metadata
from tests.export.conftest import SHAPE, make
from tests.export.single import pair
from tests.export.tampering import edited, find

NONE = np.array([])


def test_a_float_and_an_integer_file_cost_what_their_net_does(float_path: Path, integer_path: Path):
    net = cost(Plain(), SHAPE)
    of_floats, of_integers = file_cost(float_path), file_cost(integer_path)
    assert (of_floats.params, of_floats.macs) == (net.params, net.macs)
    assert (of_integers.params, of_integers.macs) == (net.params, net.macs)
    biases = 8 + 8 + 8 + 12 + 10
    assert of_floats.weight_bytes == 4 * net.params
    assert of_integers.weight_bytes == net.params + 3 * biases
    assert of_integers.bytes == integer_path.stat().st_size
    assert of_floats.uncounted == of_integers.uncounted == ()


class Wide(nn.Module):
    """A kernel that is large enough to be stored as int8 in a float file."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(10)(nn.relu(nn.Dense(32)(x.reshape(x.shape[0], -1))))


@pytest.mark.parametrize(("variant", "stored_bytes"), [("float16", 2), ("dynamic_int8", 1)])
def test_stored_formats_change_the_bytes_alone(
    variant: str, stored_bytes: int, pictures: np.ndarray, tmp_path: Path
):
    artifact, net = make(from_linen(Wide()), pictures), cost(Wide(), SHAPE)
    path = tflite(artifact, tmp_path / "f.tflite", variant=variant, backend="litert").path
    found = file_cost(path)
    assert (found.params, found.macs) == (net.params, net.macs)
    assert found.weight_bytes < (stored_bytes + 0.3) * net.params
    assert found.peak_bytes == 4 * 2 * 8 * 8 * 3  # the pixels, and the pixels normalised


def test_operators_are_counted_by_name(integer_path: Path):
    found = file_cost(integer_path)
    macs = {op.name: (op.count, op.macs) for op in found.ops}
    pointwise, strided = 8 * 8 * 8 * 8, 4 * 4 * 9 * 8 * 12
    assert macs["CONV_2D"] == (3, 8 * 8 * 27 * 8 + pointwise + strided)
    assert macs["DEPTHWISE_CONV_2D"] == (1, 8 * 8 * 9 * 8)
    assert macs["FULLY_CONNECTED"] == (1, 120)
    assert macs["ADD"] == (1, 0)
    assert sum(op.macs for op in found.ops) == found.macs


def test_bytes_and_foreign_files_cost_the_same(integer_path: Path):
    content = without_metadata(integer_path.read_bytes())
    foreign, own = file_cost(content), file_cost(integer_path)
    assert foreign == dataclasses.replace(own, bytes=len(content))
    assert file_cost(flatbuffer.read(integer_path)) == own


def one(name: str, *shapes: tuple[int, ...], output: tuple[int, ...]) -> File:
    """A file of one operator; its first operand is the input, the others are stored."""
    tensors = [Tensor("x", shapes[0], np.dtype(np.float32), NONE, NONE, 0, None)]
    for buffer, shape in enumerate(shapes[1:], 1):
        data = np.ones(shape, np.float32)
        tensors.append(
            Tensor("w", shape, data.dtype, NONE, NONE, 0, data, buffer=buffer),
        )
    tensors.append(Tensor("y", output, np.dtype(np.float32), NONE, NONE, 0, None))
    op = Op(name, tuple(range(len(shapes))), (len(shapes),))
    return File(tuple(tensors), (op,), (0,), (len(shapes),), {}, 0)


def test_products_of_activations():
    plain = one("BATCH_MATMUL", (2, 5, 7), (2, 7, 3), output=(2, 5, 3))
    transposed = one("BATCH_MATMUL", (2, 7, 5), (2, 7, 3), output=(2, 5, 3))
    assert file_cost(plain).macs == file_cost(transposed).macs == 2 * 5 * 3 * 7
    assert file_cost(plain).params == 2 * 7 * 3


def test_a_transposed_convolution_multiplies_each_input_by_the_kernel():
    file = one("TRANSPOSE_CONV", (1, 4, 4, 6), (3, 2, 2, 6), (3,), output=(1, 8, 8, 3))
    (op,) = file.ops
    inputs = (-1, 1, 0, 2)  # output shape, kernel, image, bias
    file = dataclasses.replace(file, ops=(dataclasses.replace(op, inputs=inputs),))
    assert (file_cost(file).macs, file_cost(file).params) == (16 * 6 * 4 * 3, 72 + 3)


def test_what_multiplies_and_is_not_counted_is_named():
    found = file_cost(one("UNIDIRECTIONAL_SEQUENCE_LSTM", (1, 4), (4, 4), output=(1, 4)))
    assert found.uncounted == ("UNIDIRECTIONAL_SEQUENCE_LSTM",)
    assert (found.ops[0].macs, found.macs) == (None, 0)


def test_numbers_stored_once_are_counted_once():
    file = one("FULLY_CONNECTED", (1, 4), (4, 4), (4,), output=(1, 4))
    shared = dataclasses.replace(file.tensors[2], buffer=1)
    twice = dataclasses.replace(file, tensors=(*file.tensors[:2], shared, file.tensors[3]))
    assert (file_cost(file).params, file_cost(twice).params) == (20, 16)


def no_kernel(model: Any, graph: Any) -> None:
    find(model, "CONV_2D").inputs[1] = -1


def flat_kernel(model: Any, graph: Any) -> None:
    tensor = graph.tensors[find(model, "CONV_2D").inputs[1]]
    tensor.shape = np.array([int(np.prod(tensor.shape))], np.int32)


def tensor_99(model: Any, graph: Any) -> None:
    find(model, "ADD").inputs[0] = 99


def open_width(model: Any, graph: Any) -> None:
    graph.tensors[graph.inputs[0]].shapeSignature = np.array([1, 8, -1, 3], np.int32)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (no_kernel, r"operator 0 CONV_2D has operands of shapes that do not fit it"),
        (flat_kernel, r"operator 0 CONV_2D has operands of shapes that do not fit it"),
        (tensor_99, r"names tensor 99; there are"),
        (open_width, r"known only when the file runs \(dimensions \[2\] of \[1, 8, 8, 3\]\)"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(
    tamper: Callable, message: str, integer_path: Path, tmp_path: Path
):
    path = tmp_path / "odd.tflite"
    path.write_bytes(edited(integer_path.read_bytes(), tamper))
    with pytest.raises(ValueError, match=rf"odd\.tflite: .*{message}"):
        file_cost(path)


def test_an_open_batch_counts_as_one(integer_path: Path):
    def open_batch(model: Any, graph: Any) -> None:
        for tensor in graph.tensors:
            if tensor.shape is not None and len(tensor.shape) > 1 and tensor.shape[0] == 1:
                tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)

    content = edited(integer_path.read_bytes(), open_batch)
    own = file_cost(integer_path)
    assert file_cost(content) == dataclasses.replace(own, bytes=len(content))


def test_a_file_of_several_inputs_and_outputs_is_counted():
    found = file_cost(pair())
    assert found.ops == (OpCost("ABS", 2, 0),)
    # While the floats are read the integers' output waits: 64 + 64 + 16.
    assert (found.macs, found.params, found.peak_bytes) == (0, 0, 144)


def test_loops_and_branches_are_counted_once_and_calls_each_time():
    floats = np.dtype(np.float32)
    row = Tensor("row", (1, 4), floats, NONE, NONE, 0, None)
    kernel = Tensor("kernel", (4, 4), floats, NONE, NONE, 0, np.eye(4, dtype=np.float32), buffer=1)

    def part(*ops: Op, called: dict[int, File] | None = None) -> File:
        return File((row, row, kernel), ops, (0,), (1,), {}, 0, called=called or {})

    dense = Op("FULLY_CONNECTED", (0, 2, -1), (1,))
    inner = {1: part(dense), 2: part(Op("STABLEHLO_COMPOSITE", (0,), (1,), calls=(1,)), dense)}
    calls = (Op("STABLEHLO_COMPOSITE", (0,), (1,), calls=(index,)) for index in (1, 2))
    loop = Op("WHILE", (0,), (1,), calls=(2, 1))
    found = file_cost(part(*calls, loop, dense, called=inner))
    assert found.macs == 16 + 32 + (32 + 16) + 16
    assert (found.params, found.weight_bytes) == (16, 64)  # one buffer, wherever it is read
    assert {op.name: op.count for op in found.ops}["FULLY_CONNECTED"] == 3
    assert (found.counted_once, found.uncounted) == (("WHILE",), ())


def test_a_converters_loop_and_branch_are_read(loops: bytes):
    found = file_cost(loops)
    assert found.counted_once == ("WHILE", "IF")
    assert found.macs == 2 * 16
    counts = {op.name: op.count for op in found.ops}
    assert (counts["TANH"], counts["NEG"]) == (1, 1)
