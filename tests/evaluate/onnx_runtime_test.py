from pathlib import Path

import numpy as np
import onnx as package
import pytest

from jaxmini.evaluate.accuracy import predict_all
from jaxmini.evaluate.onnx_runtime import onnx_integers, onnx_latency, onnx_predict
from jaxmini.export import Artifact, describe_onnx, onnx, onnx_file, predict
from tests.export.onnx_nets import TOKENS, text


@pytest.fixture(scope="module")
def integer_file(integer_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "int8.onnx"
    return onnx(integer_artifact, path, variant="int8").path


@pytest.mark.parametrize("optimized", [True, False])
def test_an_integer_file_is_a_predict(
    optimized: bool, integer_file: Path, integer_artifact: Artifact, pictures: np.ndarray
):
    run = onnx_predict(integer_file, optimized=optimized, threads=2)
    logits = run(pictures)
    step = describe_onnx(integer_file)["output"]["scale"]
    assert logits.dtype == np.float32
    assert np.abs(logits - np.asarray(predict(integer_artifact)(pictures))).max() <= 2.5 * step
    np.testing.assert_array_equal(predict_all(run, pictures, 7), logits)


def test_integers_are_the_logits_in_steps(integer_file: Path, pictures: np.ndarray):
    output = describe_onnx(integer_file)["output"]
    integers = onnx_integers(integer_file)(pictures)
    assert integers.dtype == np.int8
    logits = (integers.astype(np.float32) - output["zero_point"]) * np.float32(output["scale"])
    np.testing.assert_allclose(onnx_predict(integer_file.read_bytes())(pictures), logits, rtol=1e-6)


def test_latency_is_ordered(integer_file: Path):
    measured = onnx_latency(integer_file, runs=20, warmup=2)
    assert 0 < measured.low <= measured.median <= measured.high
    assert measured.runs == 20


def test_bad_arguments_are_refused(
    integer_file: Path, float_artifact: Artifact, pictures: np.ndarray, tmp_path: Path
):
    with pytest.raises(ValueError, match="threads is 0"):
        onnx_predict(integer_file, threads=0)
    with pytest.raises(TypeError, match="onnx: threads is '2', expected a whole number"):
        onnx_predict(integer_file, threads="2")
    with pytest.raises(ValueError, match=r"uint8 images \[B, 8, 8, 3\], got float32"):
        onnx_predict(integer_file)(pictures.astype(np.float32))
    with pytest.raises(ValueError, match="runs is 0"):
        onnx_latency(integer_file, runs=0)
    path = onnx(float_artifact, tmp_path / "pair.onnx", batch=2).path
    for file in (path, integer_file):  # of two pictures at a time, and of any number
        answers = onnx_predict(file)(pictures[:0])
        assert (answers.shape, answers.dtype) == ((0, 10), np.float32)
    with pytest.raises(ValueError, match="variant is float32, not int8"):
        onnx_integers(path)
    with pytest.raises(ValueError, match="takes 2 pictures at a time"):
        onnx_latency(path)


def test_tokens_are_checked():
    *_, plan, frozen = text()
    content, _ = onnx_file(plan, frozen)
    with pytest.raises(ValueError, match=r"expected tokens int32 \[B, 6\], got int64\[24, 6\]"):
        onnx_predict(content)(TOKENS.astype(np.int64))
    with pytest.raises(ValueError, match=r"got int32\[24, 5\]"):
        onnx_integers(content)(TOKENS[:, :5])
    assert onnx_latency(content, warmup=0, runs=2).runs == 2


def test_a_file_that_the_runtime_refuses_is_named(integer_file: Path, tmp_path: Path):
    model = package.load(integer_file)
    model.graph.output[0].type.tensor_type.elem_type = package.TensorProto.INT64
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"other\.onnx: ONNX Runtime refuses the file: .*int64"):
        onnx_predict(path)
