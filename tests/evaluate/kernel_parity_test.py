"""Kernel parity: two kinds of kernels in one file, operator by operator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmini.evaluate import native
from jaxmini.evaluate.encoding import encoded
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.evaluate.kernel_parity import kernel_parity
from jaxmini.evaluate.operators import first_deviating
from jaxmini.export import flatbuffer
from tests.evaluate.conftest import without_metadata
from tests.export.single import SHAPE, pair, single
from tests.export.tampering import edited, find


@pytest.fixture(scope="module")
def inputs(pictures: np.ndarray) -> np.ndarray:
    return encoded(pictures, np.dtype(np.int8))


def test_each_operator_is_fed_with_what_the_base_computed_before_it(
    integer_path: Path, inputs: np.ndarray
):
    content = without_metadata(integer_path.read_bytes())
    found = kernel_parity(content, inputs, kernels="xnnpack")
    whole, travelled = (
        Interpreter(content, kernels=k, keep_all=True) for k in ("reference", "xnnpack")
    )
    ops = whole.file.ops
    assert [op.name for op in found] == [op.name for op in ops]
    alone = [Alone(content, place) for place in range(len(ops))]
    apart, behind = np.zeros((2, len(ops)), int)
    for image in inputs:
        whole.run(image[None])
        travelled.run(image[None])
        for place, op in enumerate(ops):
            expected = whole.tensor(op.outputs[0]).astype(int)
            apart[place] += np.count_nonzero(alone[place](whole) != expected)
            behind[place] += np.count_nonzero(travelled.tensor(op.outputs[0]) != expected)
    assert [op.deviation.differing for op in found] == apart.tolist()
    assert [op.deviation.compared % len(inputs) for op in found] == [0] * len(found)
    first = first_deviating(found).index
    assert first == np.flatnonzero(apart)[0]
    assert behind[first] == apart[first]
    assert apart.sum() < behind.sum()  # what one operator rounds differently reached others


class Alone:
    """One operator of a file as a file of its own, on XNNPACK."""

    def __init__(self, content: bytes, place: int) -> None:
        def keep_one(model: Any, graph: Any) -> None:
            op = graph.operators[place]
            computed = [i for i in op.inputs if i >= 0 and not _stored(model, graph.tensors[i])]
            graph.operators, graph.outputs = [op], op.outputs
            graph.inputs = np.asarray(computed, np.int32)
            model.signatureDefs = None

        content = edited(content, keep_one)
        self._file = flatbuffer.read(content)
        self._native = native.interpreter(content, "xnnpack", 1, False)

    def __call__(self, whole: Interpreter) -> np.ndarray:
        """Its output for what it reads in a run of the whole file."""
        for index in self._file.inputs:
            self._native.set_tensor(index, whole.tensor(index))
        self._native.invoke()
        return self._native.get_tensor(self._file.outputs[0]).astype(int)


def _stored(model: Any, tensor: Any) -> bool:
    return model.buffers[tensor.buffer].data is not None


def test_kernels_do_not_deviate_from_themselves(integer_path: Path, inputs: np.ndarray):
    found = kernel_parity(integer_path, inputs, kernels="optimized", base="optimized")
    assert first_deviating(found) is None
    assert all(op.deviation.compared for op in found)


def test_operators_of_floats_have_no_deviation():
    (found,) = kernel_parity(
        single("ABS", np.float32), np.ones(SHAPE, np.float32), kernels="xnnpack"
    )
    assert (found.name, found.group, found.deviation) == ("ABS", None, None)


def test_each_of_several_inputs_has_an_array():
    both = (np.ones(SHAPE, np.int8), np.ones(SHAPE, np.float32))
    integers, floats = kernel_parity(pair(), both, kernels="xnnpack")
    assert (integers.deviation.compared, floats.deviation) == (16, None)
    for wrong in (both[0], both[::-1], (both[0], both[1][:0])):
        with pytest.raises(
            ValueError, match=r"takes int8\[N, 2, 2, 4\], float32\[N, 2, 2, 4\], N >= 1; got"
        ):
            kernel_parity(pair(), wrong, kernels="xnnpack")


def test_other_inputs_and_files_are_refused(integer_path: Path, inputs: np.ndarray):
    for wrong in (inputs.astype(np.uint8), inputs[:, :4], inputs[:0]):
        with pytest.raises(
            ValueError, match=r"kernel_parity: .*int8\.tflite takes int8\[N, 8, 8, 3\]"
        ):
            kernel_parity(integer_path, wrong, kernels="xnnpack")

    def tamper(model: Any, graph: Any) -> None:
        find(model, "ADD").inputs[1] = -1

    with pytest.raises(ValueError, match="the interpreter (crashes on|refuses) the file"):
        kernel_parity(edited(integer_path.read_bytes(), tamper), inputs, kernels="xnnpack")


def other_size(model: Any, graph: Any) -> None:
    """Kernels compute the size anew, so that the whole file runs."""
    graph.tensors[find(model, "ADD").outputs[0]].shape[1] += 1


def zero_point_beyond(model: Any, graph: Any) -> None:
    """Where the reference kernels do not look, and XNNPACK does."""
    graph.tensors[find(model, "ADD").outputs[0]].quantization.zeroPoint[0] = 2**23


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (other_size, r"as \[1, 9, 8, 8\], and it is \[1, 8, 8, 8\] when the file runs"),
        (zero_point_beyond, "its operators do not run one by one: .*zero-point"),
    ],
)
def test_a_file_whose_operators_do_not_run_one_by_one_is_refused_by_its_name(
    tamper: Callable, message: str, integer_path: Path, inputs: np.ndarray, tmp_path: Path
):
    path = tmp_path / "odd.tflite"
    path.write_bytes(edited(integer_path.read_bytes(), tamper))
    with pytest.raises(ValueError, match=rf"odd\.tflite: .*{message}"):
        kernel_parity(path, inputs[:1], kernels="xnnpack")


def test_tflite_micro_is_one_more_kind_of_kernels(integer_path: Path, inputs: np.ndarray):
    pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")
    found = kernel_parity(integer_path, inputs[:3], kernels="micro")
    assert len(found) == 8
    assert all(op.deviation.largest <= 1 for op in found)
