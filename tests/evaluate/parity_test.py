"""An artifact beside its files: the faithful, the changed, and those of other networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmini.evaluate.interpreter import LITERT, Kernels
from jaxmini.evaluate.operators import first_deviating
from jaxmini.evaluate.parity import file_parity
from jaxmini.export import Artifact
from tests.evaluate.conftest import without_metadata
from tests.export.tampering import change, edited, find

LABELS = np.arange(20, dtype=np.int32) % 10


def test_a_faithful_integer_file(
    integer_artifact: Artifact, integer_path: Path, pictures: np.ndarray
):
    found = file_parity(integer_artifact, integer_path, pictures, LABELS, operator_images=3)
    assert found.is_faithful
    assert (found.images, found.labelled, found.operator_images) == (20, 20, 3)
    assert found.stored.compared.kernel_integers == 8 * 27 + 8 * 9 + 64 + 8 * 9 * 12 + 120
    assert list(found.answers) == list(LITERT)
    exact = found.answers[Kernels.XNNPACK]
    assert (exact.agreement, exact.largest_difference) == (1.0, 0.0)
    assert exact.deviation.histogram == (200, 0, 0, 0, 0, 0)
    assert exact.accuracy == found.accuracy
    for answers in found.answers.values():
        assert answers.deviation.largest <= 2
        assert len(answers.operators) == 8
    assert first_deviating(exact.operators) is None


def test_a_changed_kernel_is_told_in_every_way(
    integer_artifact: Artifact, integer_path: Path, pictures: np.ndarray
):
    def tamper(model: Any, graph: Any) -> None:
        change(model, graph.tensors[find(model, "CONV_2D", 1).inputs[1]], slice(0, 30), 127)

    content = edited(integer_path.read_bytes(), tamper)
    found = file_parity(integer_artifact, content, pictures)
    assert not found.is_faithful
    assert len(found.stored.differences) == 1
    assert found.stored.differences[0].startswith("Plain/Conv_2:conv kernel: ")
    assert found.accuracy is None
    for answers in found.answers.values():
        assert answers.deviation.largest > 2
    first = first_deviating(found.answers[Kernels.XNNPACK].operators)
    assert (first.index, first.group) == (2, "Plain/Conv_2:conv")


def test_a_float_file_is_compared_by_its_logits(
    float_artifact: Artifact, float_path: Path, pictures: np.ndarray
):
    labels = np.where(np.arange(20) < 5, LABELS, -1)
    found = file_parity(float_artifact, float_path, pictures, labels)
    assert (found.stored, found.operator_images, found.labelled) == (None, 0, 5)
    assert found.is_faithful
    for answers in found.answers.values():
        assert (answers.deviation, answers.operators) == (None, ())
        assert answers.agreement == 1.0
        assert answers.largest_difference < 1e-4
        assert answers.accuracy == found.accuracy


def test_what_does_not_fit_is_refused(
    integer_artifact: Artifact,
    float_artifact: Artifact,
    integer_path: Path,
    pictures: np.ndarray,
    tmp_path: Path,
):
    with pytest.raises(
        ValueError, match="int8.tflite: computes in int8, and the artifact's network was trained in"
    ):
        file_parity(float_artifact, integer_path, pictures)
    with pytest.raises(ValueError, match=r"\[N, 8, 8, 3\], N >= 1, got uint8\[0, 8, 8, 3\]"):
        file_parity(integer_artifact, integer_path, pictures[:0])
    with pytest.raises(ValueError, match="no kernels are named"):
        file_parity(integer_artifact, integer_path, pictures, kernels=())
    with pytest.raises(TypeError, match="got function; function_parity compares any"):
        file_parity(lambda images: images, integer_path, pictures)
    with pytest.raises(ValueError, match="operator_images is 0"):
        file_parity(integer_artifact, integer_path, pictures, operator_images=0)
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(without_metadata(integer_path.read_bytes()))
    with pytest.raises(ValueError, match=r"foreign\.tflite: holds no 'jaxmini' metadata"):
        file_parity(integer_artifact, foreign, pictures)
    foreign.write_bytes(b"GIF89a and nothing more")
    with pytest.raises(ValueError, match=r"foreign\.tflite: not a \.tflite file"):
        file_parity(integer_artifact, foreign, pictures)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (LABELS[:5], r"int32\[5\]"),
        (np.tile(LABELS, 2), r"int32\[40\]"),
        (LABELS[:, None], r"int32\[20, 1\]"),
        (LABELS[0], r"int32\[\]"),
        (LABELS.astype(np.float32), r"float32\[20\]"),
        (["a"] * 20, r"<U1\[20\]"),
    ],
)
def test_labels_are_one_integer_a_picture(
    labels: np.ndarray,
    told: str,
    integer_artifact: Artifact,
    integer_path: Path,
    pictures: np.ndarray,
):
    with pytest.raises(
        ValueError, match=rf"expected labels of 20 examples, integers \[20\], got {told}; -1 is"
    ):
        file_parity(integer_artifact, integer_path, pictures, labels)


def test_a_file_that_kills_the_interpreter_is_a_message(
    integer_artifact: Artifact, integer_path: Path, pictures: np.ndarray
):
    def tamper(model: Any, graph: Any) -> None:
        find(model, "ADD").inputs[1] = -1

    # What lies before the first tensor decides whether the kernel crashes or sees that it cannot run.
    with pytest.raises(ValueError, match="the interpreter (crashes on|refuses) the file"):
        file_parity(integer_artifact, edited(integer_path.read_bytes(), tamper), pictures)
