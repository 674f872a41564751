"""Kernel parity: two kinds of kernels in one file, operator by operator."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmini.evaluate.encoding import encoded
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.evaluate.kernel_parity import kernel_parity
from jaxmini.evaluate.operators import first_deviating
from tests.evaluate.conftest import without_metadata
from tests.export.single import SHAPE, single
from tests.export.tampering import edited, find


@pytest.fixture(scope="module")
def inputs(pictures: np.ndarray) -> np.ndarray:
    return encoded(pictures, np.dtype(np.int8))


def test_each_operator_of_the_file_is_compared(integer_path: Path, inputs: np.ndarray):
    content = without_metadata(integer_path.read_bytes())
    found = kernel_parity(content, inputs, kernels="xnnpack")
    kinds = [Interpreter(content, kernels=k, keep_all=True) for k in ("reference", "xnnpack")]
    assert [op.name for op in found] == [op.name for op in kinds[0].file.ops]
    apart = np.zeros(len(found), int)
    for image in inputs:
        for kind in kinds:
            kind.run(image[None])
        for place, op in enumerate(kinds[0].file.ops):
            first, second = (kind.tensor(op.outputs[0]).astype(int) for kind in kinds)
            apart[place] += np.count_nonzero(first != second)
    assert [op.deviation.differing for op in found] == apart.tolist()
    assert [op.deviation.compared % len(inputs) for op in found] == [0] * len(found)
    first = first_deviating(found)
    assert (None if first is None else first.index) == next(iter(np.flatnonzero(apart)), None)


def test_kernels_do_not_deviate_from_themselves(integer_path: Path, inputs: np.ndarray):
    found = kernel_parity(integer_path, inputs, kernels="optimized", base="optimized")
    assert first_deviating(found) is None
    assert all(op.deviation.compared for op in found)


def test_operators_of_floats_have_no_deviation():
    (found,) = kernel_parity(
        single("ABS", np.float32), np.ones(SHAPE, np.float32), kernels="xnnpack"
    )
    assert (found.name, found.group, found.deviation) == ("ABS", None, None)


def test_other_inputs_and_files_are_refused(integer_path: Path, inputs: np.ndarray):
    for wrong in (inputs.astype(np.uint8), inputs[:, :4], inputs[:0]):
        with pytest.raises(ValueError, match=r"kernel_parity: the file takes int8\[N, 8, 8, 3\]"):
            kernel_parity(integer_path, wrong, kernels="xnnpack")

    def tamper(model: Any, graph: Any) -> None:
        find(model, "ADD").inputs[1] = -1

    with pytest.raises(ValueError, match="the interpreter (crashes on|refuses) the file"):
        kernel_parity(edited(integer_path.read_bytes(), tamper), inputs, kernels="xnnpack")


def test_tflite_micro_is_one_more_kind_of_kernels(integer_path: Path, inputs: np.ndarray):
    pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")
    found = kernel_parity(integer_path, inputs[:3], kernels="micro")
    assert len(found) == 8
    assert all(op.deviation.largest <= 1 for op in found)
