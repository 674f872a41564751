from collections.abc import Callable
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize import Frozen
from jaxmini.evaluate.file_cost import file_cost
from jaxmini.export import Artifact, ParityError, describe_file, editing, flatbuffer, int4
from jaxmini.export.integer import integer_form
from jaxmini.export.parity import check
from tests.export.tampering import edited, find

NIBBLES = arrays.arrays(
    np.int8, arrays.array_shapes(max_dims=4, max_side=5), elements=st.integers(-8, 7)
)


@given(NIBBLES)
def test_packed_integers_are_read_back(integers: np.ndarray):
    packed = int4.pack(integers)
    assert packed.size == (integers.size + 1) // 2
    np.testing.assert_array_equal(read_back(integers.shape, packed), integers)


def read_back(shape: tuple[int, ...], packed: np.ndarray) -> np.ndarray:
    """A tensor of the bytes, as the reader of files reads it."""
    schema = flatbuffer.schema_module()
    model, tensor, buffer = schema.ModelT(), schema.TensorT(), schema.BufferT()
    buffer.data, tensor.buffer, model.buffers = packed, 0, [buffer]
    tensor.name, tensor.shape, tensor.type = b"kernel", np.asarray(shape, np.int32), editing.INT4
    return flatbuffer.constant(model, tensor)


def test_the_first_of_two_is_in_the_lower_half():
    np.testing.assert_array_equal(int4.pack(np.array([1, -1, 7], np.int8)), [0xF1, 0x07])


def test_integers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"-9..3 do not fit 4 bits"):
        int4.pack(np.array([-9, 3], np.int8))


def test_a_file_stores_kernels_of_four_bits_in_half_the_bytes(
    narrow_files: Callable[[bool], Path], narrow_artifact: Artifact
):
    whole, packed = (flatbuffer.read(narrow_files(int4)) for int4 in (False, True))
    halved = [t for t in packed.tensors if t.bits == 4]
    assert {
        op.name for op in packed.ops if any(packed.tensors[i].bits == 4 for i in op.inputs)
    } == {
        "CONV_2D",
        "FULLY_CONNECTED",
    }
    saved = sum(t.data.size // 2 for t in halved)
    assert saved == 8 * 3 * 9 // 2 + 8 * 8 // 2 + 8 * 10 // 2
    costs = [file_cost(file) for file in (whole, packed)]
    assert costs[0].weight_bytes - costs[1].weight_bytes == saved
    assert costs[0].params == costs[1].params
    assert packed.size < whole.size


def test_the_description_tells_which_kernels_stay_int8(narrow_files: Callable[[bool], Path]):
    assert describe_file(narrow_files(True))["kernels"] == {
        "Block/Conv_0:conv": "int4",
        "Block/Conv_1:conv": "int8",  # depthwise
        "Block/Conv_2:conv": "int4",
        "Block/Dense_0:dense": "int4",
    }
    assert "kernels" not in describe_file(narrow_files(False))


def test_a_changed_half_byte_is_found(
    narrow_files: Callable[[bool], Path], narrow_artifact: Artifact
):
    content = narrow_files(True).read_bytes()

    def tamper(model: object, graph: object) -> None:
        tensor = graph.tensors[find(model, "FULLY_CONNECTED").inputs[1]]
        data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).copy()
        data[0] ^= 0x10  # the second integer
        model.buffers[tensor.buffer].data = data

    form = integer_form(narrow_artifact)
    check(content, *form)
    with pytest.raises(ParityError, match=r"Dense_0:dense kernel: 1 of 80 differ"):
        check(edited(content, tamper), *form)


def test_a_network_of_wide_kernels_is_refused(integer_bytes: bytes, integer_artifact: Artifact):
    with pytest.raises(ValueError, match="has a kernel of at most 4 bits"):
        int4.packed(integer_bytes, *integer_form(integer_artifact))


def test_frozen_kernels_know_their_bits(narrow_artifact: Artifact):
    _, frozen = integer_form(narrow_artifact)
    again = Frozen.from_arrays(frozen.arrays())
    assert {kernel.bits for kernel in again.kernels.values()} == {4}
    without = {name: array for name, array in frozen.arrays().items() if not name.endswith("/bits")}
    assert {kernel.bits for kernel in Frozen.from_arrays(without).kernels.values()} == {8}
