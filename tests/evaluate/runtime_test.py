from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxmini.compress.quantize import Grid, calibrate, int8, observed, quantize
from jaxmini.data import Normalization
from jaxmini.evaluate.accuracy import predict_all
from jaxmini.evaluate.interpreter import LITERT, Kernels
from jaxmini.evaluate.runtime import latency, tflite_integers, tflite_predict
from jaxmini.export import Artifact, describe_file, metadata, predict, tflite
from jaxmini.model import from_linen
from tests.export.conftest import make, quantized

NORMALIZATION = Normalization(0.5, 0.25)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.relu(nn.Conv(4, (3, 3))(x)).mean((1, 2)))


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    grid = Grid(NORMALIZATION.scale, NORMALIZATION.zero_point)
    model = quantize(from_linen(Net()), input_grid=grid)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    variables = calibrate(model, variables, [NORMALIZATION(jnp.asarray(IMAGES))])
    return Artifact(model, variables, ("a", "b", "c"), NORMALIZATION, (4, 4, 1))


@pytest.fixture(scope="module")
def integer_file(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "int8.tflite"
    return tflite(artifact, path, variant="int8", backend="litert").path


@pytest.fixture(scope="module")
def float_file(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    variables = {"params": artifact.variables["params"]}
    plain = Artifact(from_linen(Net()), variables, artifact.labels, NORMALIZATION, (4, 4, 1))
    path = tmp_path_factory.mktemp("files") / "float.tflite"
    return tflite(plain, path, variant="float32", backend="litert").path


@pytest.fixture(scope="module")
def wide_file(pictures: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "int16.tflite"
    wide = make(quantized(Net(), int8(activation=observed(bits=16))), pictures, ("a", "b", "c"))
    return tflite(wide, path, variant="int16x8", backend="litert").path


@pytest.mark.parametrize("kernels", LITERT)
def test_an_integer_file_is_a_predict(kernels: Kernels, integer_file: Path, artifact: Artifact):
    logits = tflite_predict(integer_file, kernels=kernels, threads=2)(IMAGES)
    step = describe_file(integer_file)["output"]["scale"]
    assert logits.dtype == np.float32
    assert np.abs(logits - np.asarray(predict(artifact)(IMAGES))).max() <= 2.5 * step


def test_integers_are_the_logits_in_steps(integer_file: Path):
    output = describe_file(integer_file)["output"]
    integers = tflite_integers(integer_file)(IMAGES)
    assert integers.dtype == np.int8
    np.testing.assert_allclose(
        tflite_predict(integer_file)(IMAGES),
        (integers.astype(np.float32) - output["zero_point"]) * np.float32(output["scale"]),
        rtol=1e-6,
    )


def test_black_and_white_reach_the_ends_of_the_grid(integer_file: Path, artifact: Artifact):
    extremes = np.stack([np.zeros((4, 4, 1), np.uint8), np.full((4, 4, 1), 255, np.uint8)])
    step = describe_file(integer_file)["output"]["scale"]
    expected = np.asarray(predict(artifact)(extremes))
    assert np.abs(tflite_predict(integer_file)(extremes) - expected).max() <= 2.5 * step


def test_a_float_file_is_a_predict_from_bytes_too(float_file: Path):
    expected = tflite_predict(float_file)(IMAGES)
    np.testing.assert_array_equal(tflite_predict(float_file.read_bytes())(IMAGES), expected)
    np.testing.assert_array_equal(predict_all(tflite_predict(float_file), IMAGES, 4), expected)
    with pytest.raises(ValueError, match="output is float32, not int8"):
        tflite_integers(float_file)


def test_no_images_have_no_answers(integer_file: Path, float_file: Path):
    for run, dtype in (
        (tflite_predict(integer_file), np.float32),
        (tflite_predict(float_file), np.float32),
        (tflite_integers(integer_file), np.int8),
    ):
        answers = run(IMAGES[:0])
        assert (answers.shape, answers.dtype) == ((0, 3), dtype)
    with pytest.raises(ValueError, match=r"got uint8\[0, 4, 1\]"):
        tflite_predict(integer_file)(IMAGES[:0, 0])


def test_latency_is_ordered(integer_file: Path):
    measured = latency(integer_file, runs=20, warmup=2)
    assert 0 < measured.low <= measured.median <= measured.high
    assert measured.runs == 20


def test_truncated_and_foreign_files_are_refused(integer_file: Path, tmp_path: Path):
    content = integer_file.read_bytes()
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut.tflite: .*damaged or cut short"):
        tflite_predict(cut)
    with pytest.raises(ValueError, match="not a .tflite file"):
        latency(b"GIF89a and nothing more")
    with pytest.raises(FileNotFoundError):
        tflite_predict(tmp_path / "nothing.tflite")


def test_bad_arguments_are_refused(integer_file: Path):
    with pytest.raises(ValueError, match=r"'xnpack' are unknown; there are 'xnnpack'"):
        tflite_predict(integer_file, kernels="xnpack")
    with pytest.raises(ValueError, match="threads is 0"):
        tflite_predict(integer_file, threads=0)
    for threads in ("2", 2.0, None):
        with pytest.raises(
            TypeError, match=f"tflite: threads is {threads!r}, expected a whole number"
        ):
            tflite_predict(integer_file, threads=threads)
    with pytest.raises(ValueError, match="runs is 0"):
        latency(integer_file, runs=0)
    with pytest.raises(ValueError, match=r"uint8 images \[B, 4, 4, 1\], got float32"):
        tflite_predict(integer_file)(IMAGES.astype(np.float32))
    with pytest.raises(ValueError, match=r"got uint8\[6, 4, 1\]"):
        tflite_predict(integer_file)(IMAGES[:, 0])


def test_a_file_that_does_not_say_how_it_is_read_is_refused(integer_file: Path):
    from jaxmini.export import flatbuffer

    model = flatbuffer.load(integer_file.read_bytes())
    model.metadata = []
    with pytest.raises(ValueError, match=f"no '{metadata.NAME}' metadata"):
        tflite_predict(flatbuffer.dump(model))


def test_metadata_that_contradicts_the_file_is_refused(integer_file: Path):
    content = metadata.write(integer_file.read_bytes(), {"input": {"encoding": "pixel"}})
    with pytest.raises(ValueError, match="its int8 input takes 'pixel'; damaged"):
        tflite_predict(content)
    with pytest.raises(ValueError, match="takes None; damaged"):
        tflite_predict(metadata.write(content, {"input": "gone"}))


@pytest.mark.parametrize("normalization", [None, {}, 3, {"mean": "half"}])
def test_an_int16_file_that_does_not_tell_its_mean_is_refused(
    normalization: object, wide_file: Path, tmp_path: Path
):
    path = tmp_path / "odd.tflite"
    description = describe_file(wide_file) | {"normalization": normalization}
    path.write_bytes(metadata.write(wide_file.read_bytes(), description))
    with pytest.raises(ValueError, match=r"odd\.tflite: its metadata tells no mean of its pixels"):
        tflite_predict(path)
