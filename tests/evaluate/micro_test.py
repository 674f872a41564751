"""TFLite-Micro as a kind of kernels: its answers are the reference kernels', its operators' too."""

from pathlib import Path

import numpy as np
import pytest

from jaxmini.evaluate.benchmark import benchmark
from jaxmini.evaluate.deviation import Deviation, deviation
from jaxmini.evaluate.interpreter import Interpreter, Kernels
from jaxmini.evaluate.operators import operator_parity
from jaxmini.evaluate.parity import file_parity
from jaxmini.evaluate.runtime import tflite_integers, tflite_predict
from jaxmini.export import Artifact, Layout, MicroError, integer_form, predict, tflite
from jaxmini.export.constraints import QUESTIONS
from tests.compress.quantize.token_nets import sentences
from tests.export.conftest import SHAPE
from tests.export.masked import masked
from tests.export.tampering import edited, find, set_code

pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")

# Its dense layer rounds twice, the reference kernels' once: one number in some hundreds is off by one.
DENSE_SHARE = 0.02
ASKED = QUESTIONS - {"RESHAPE", "SLICE", "TRANSPOSE"} | {"GATHER_ND"}
MASKED_STEPS = 3  # of two blocks of attention, ten dense layers one after the other


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (100, *SHAPE), dtype=np.uint8)


def test_answers_are_the_reference_kernels(integer_path: Path, many: np.ndarray):
    expected = tflite_integers(integer_path, kernels=Kernels.REFERENCE)(many)
    apart = deviation(expected, tflite_integers(integer_path, kernels="micro")(many))
    assert apart.compared == 1000
    assert apart.largest <= 1
    assert apart.differing <= DENSE_SHARE * apart.compared


def test_all_but_the_dense_layer_are_the_reference_kernels_bit_for_bit(
    integer_path: Path, pictures: np.ndarray
):
    ours = Interpreter(integer_path, kernels=Kernels.MICRO, keep_all=True)
    theirs = Interpreter(integer_path, kernels=Kernels.REFERENCE, keep_all=True)
    found: dict[str, Deviation] = {}
    for picture in (pictures.astype(np.int16) - 128).astype(np.int8):
        ours.run(picture[None])
        theirs.run(picture[None])
        for op in ours.file.ops:
            apart = deviation(theirs.tensor(op.outputs[0]), ours.tensor(op.outputs[0]))
            found[op.name] = found.get(op.name, Deviation()) + apart
    dense = found.pop("FULLY_CONNECTED")
    assert found.keys() == {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "PAD", "MEAN"}
    assert all(apart.compared and not apart.differing for apart in found.values())
    assert dense.largest <= 1


def test_keeping_every_tensor_does_not_change_the_answers(integer_path: Path, many: np.ndarray):
    looked = Interpreter(integer_path, kernels=Kernels.MICRO, keep_all=True)
    pixels = (many.astype(np.int16) - 128).astype(np.int8)
    answers = np.concatenate([looked.run(picture[None]) for picture in pixels])
    np.testing.assert_array_equal(answers, tflite_integers(integer_path, kernels="micro")(many))


def test_operators_are_compared_with_the_simulation(
    integer_artifact: Artifact, integer_path: Path, pictures: np.ndarray
):
    form = integer_form(integer_artifact)
    found = operator_parity(integer_path, *form, pictures, kernels=Kernels.MICRO)
    reference = operator_parity(integer_path, *form, pictures, kernels=Kernels.REFERENCE)
    assert found[:-1] == reference[:-1]
    assert max(op.deviation.largest for op in found if op.deviation) == 1


def test_parity_has_a_row_of_it_where_it_is_asked_for(
    integer_artifact: Artifact, integer_path: Path, pictures: np.ndarray
):
    found = file_parity(integer_artifact, integer_path, pictures, kernels=("micro", "reference"))
    assert list(found.answers) == [Kernels.MICRO, Kernels.REFERENCE]
    for answers in found.answers.values():
        assert answers.agreement == 1.0
        assert answers.deviation.largest <= 2
        assert len(answers.operators) == 8


@pytest.mark.parametrize("layout", [{"input": "uint8"}, {"input": "float32", "output": "float32"}])
def test_other_types_at_the_ends_and_batches_change_nothing(
    layout: dict, integer_artifact: Artifact, integer_path: Path, many: np.ndarray, tmp_path: Path
):
    file = tflite(
        integer_artifact,
        tmp_path / "net.tflite",
        variant="int8",
        backend="litert",
        layout=Layout(batch=3, **layout),
    )
    found = tflite_integers(file.path, kernels=Kernels.MICRO)(many)
    np.testing.assert_array_equal(found, tflite_integers(integer_path, kernels="micro")(many))


def test_a_signature_cannot_be_named_there(integer_path: Path):
    with pytest.raises(ValueError, match="'embedding'; TFLite-Micro runs a file's first one"):
        tflite_predict(integer_path, kernels=Kernels.MICRO, signature="embedding")


def test_a_float_file_runs_there_too(
    float_artifact: Artifact, float_path: Path, pictures: np.ndarray
):
    expected = np.asarray(predict(float_artifact)(pictures))
    np.testing.assert_allclose(
        tflite_predict(float_path, kernels="micro")(pictures), expected, atol=1e-4
    )


def test_a_file_is_timed_there(integer_path: Path):
    found = benchmark(integer_path, kernels="micro", runs=3, warmup=0)
    assert found.latencies[1].median > 0
    with pytest.raises(ValueError, match="threads is 2; TFLite-Micro runs on one"):
        benchmark(integer_path, kernels="micro", threads=(2,), runs=1)


def test_what_it_does_not_run_is_refused_by_name(integer_path: Path):
    def gelu(model, graph) -> None:
        set_code(model, find(model, "ADD"), 150)

    path = integer_path.with_name("gelu.tflite")
    path.write_bytes(edited(integer_path.read_bytes(), gelu))
    with pytest.raises(MicroError, match=r"gelu\.tflite: .*\n  GELU is not an operator of"):
        tflite_predict(path, kernels="micro")


def test_a_damaged_file_is_a_message(integer_path: Path):
    def no_second_term(model, graph) -> None:
        find(model, "ADD").inputs[1] = -1

    with pytest.raises(MicroError, match="TFLite-Micro does not run the file:\n  "):
        Interpreter(edited(integer_path.read_bytes(), no_second_term), kernels="micro")


def test_a_mask_by_tokens_is_the_reference_kernels_bit_for_bit():
    """Comparisons of tokens, the look-up of what is added, and the addition."""
    content, _, _ = masked()
    ours, theirs = (
        Interpreter(content, kernels=kind, keep_all=True) for kind in ("micro", "reference")
    )
    for tokens in np.asarray(sentences())[:4]:
        ours.run(tokens[None])
        theirs.run(tokens[None])
        asked = [op for op in ours.file.ops if op.name in ASKED]
        assert {"GREATER", "LOGICAL_AND", "CAST"} <= {op.name for op in asked}
        for op in asked:
            found, expected = (one.tensor(op.outputs[0]) for one in (ours, theirs))
            np.testing.assert_array_equal(found, expected)
        outputs = [one.tensor(one.file.outputs[0]).astype(int) for one in (ours, theirs)]
        assert np.abs(np.subtract(*outputs)).max() <= MASKED_STEPS
