"""Written: what lies on the disk is weighed and named whole; each format is run as it wants to be."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini import data, models
from jaxmini.compress import quantize
from jaxmini.evaluate.interpreter import Kernels
from jaxmini.evaluate.runtime import Latency
from jaxmini.export import ConversionError, Layout
from jaxmini.export.parity import Parity
from jaxmini.export.tflite import Exported
from jaxmini.run import written
from jaxmini.run.formats import Onnx, SavedModel, StableHLO
from jaxmini.run.stage import Export, Supervised

NET = Supervised(name="net", data=data.digits(), model=models.small_resnet(10, widths=(4,)))
INT8 = Supervised(name="int8", data=data.digits(), start=NET, quantize=quantize.int8())
ARTIFACT: Any = object()
TIMING = Latency(median=6.0, low=3.0, high=9.0, runs=7)


def folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


FILES = {"graph": b"abc", "variables/0": b"", "variables/1": b"12345"}


def test_a_folder_weighs_what_all_its_files_do(tmp_path: Path):
    root = folder(tmp_path / "a", FILES)
    assert written.bytes_of(root) == 8
    assert written.bytes_of(root / "graph") == 3
    (root / "empty").mkdir()
    assert written.bytes_of(root) == 8


@pytest.mark.parametrize(
    "changed",
    [
        {**FILES, "graph": b"abd"},
        {**FILES, "more": b""},
        {"graph": b"abc", "variables/0": b"", "variables/2": b"12345"},
        {"graph": b"abc", "variables/1": b"", "variables/0": b"12345"},
        {"graph": b"abc"},
    ],
)
def test_the_digest_of_a_folder_tells_names_and_contents(tmp_path: Path, changed: dict):
    digest = written.digest_of(folder(tmp_path / "a", FILES))
    assert digest == written.digest_of(folder(tmp_path / "b", dict(reversed(FILES.items()))))
    assert digest != written.digest_of(folder(tmp_path / "c", changed))


@given(content=st.binary(max_size=40))
def test_the_digest_of_a_file_is_sha256s(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    path = tmp_path_factory.mktemp("file") / "a"
    path.write_bytes(content)
    assert written.digest_of(path) == hashlib.sha256(content).hexdigest()


def test_only_what_was_compared_is_told():
    assert written._compared(None) == {}
    assert written._compared(Parity(groups=3, kernel_integers=12_345)) == {
        "groups": "3 compared, 0 differ",
        "kernel integers": "12,345 compared, 0 differ",
    }


@pytest.fixture
def tflite(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Conversion and interpreters are not run: how they are called."""
    called: dict[str, Any] = {}

    def convert(artifact: object, path: Path, **options: object) -> Exported:
        called.update(options, artifact=artifact)
        found = {"bytes": 1, "sha256": "", "ops": {"ADD": 2}, "parity": Parity(groups=1)}
        return Exported(path, options["variant"], options["backend"], **found)

    monkeypatch.setattr(written, "tflite", convert)
    monkeypatch.setattr(written, "tflite_predict", lambda path: ("predict", path))
    monkeypatch.setattr(written, "latency", lambda path: TIMING)
    monkeypatch.setattr(written.flatbuffer, "read", lambda path: ("file", path))
    monkeypatch.setattr(written, "float_ops", lambda file: {"of": file})
    monkeypatch.setattr(
        written, "tflite_integers", lambda path, *, kernels: ("integers", path, kernels)
    )
    return called


@pytest.mark.parametrize(("batch", "images"), [(1, 128), (3, 126), (128, 128), (500, 500)])
def test_a_tflite_file_is_given_whole_batches_and_timed_by_the_image(
    tflite: dict[str, Any], batch: int, images: int
):
    layout = Layout(batch=batch)
    made = written.write(Export(NET, "float32", "litert", layout=layout), ARTIFACT, Path("a"))
    assert tflite == {
        "artifact": ARTIFACT,
        "variant": "float32",
        "backend": "litert",
        "layout": layout,
    }
    assert made.predict == ("predict", Path("a"))
    assert made.batch == images
    assert made.timing == Latency(6.0 / batch, 3.0 / batch, 9.0 / batch, 7)
    assert (made.ops, made.float_ops) == ({"ADD": 2}, {"of": ("file", Path("a"))})
    assert made.compared == {"groups": "1 compared, 0 differ"}
    assert made.integers == {}


def test_an_integer_file_is_run_by_the_kernels_of_applications_and_of_reference(
    tflite: dict[str, Any],
):
    made = written.write(Export(INT8, "int8", "litert"), ARTIFACT, Path("a"))
    assert made.integers == {
        "xnnpack kernels": ("integers", Path("a"), Kernels.XNNPACK),
        "reference kernels": ("integers", Path("a"), Kernels.REFERENCE),
    }


def test_a_converter_that_fails_is_told_with_the_file(monkeypatch: pytest.MonkeyPatch):
    def fails(*_: object, **__: object) -> None:
        raise ConversionError("it crashed")

    monkeypatch.setattr(written, "tflite", fails)
    with pytest.raises(
        ConversionError,
        match="(?s)^net-float32-jax2tf.tflite of stage 'net' could not be written: it crashed\n.*kept",
    ):
        written.write(Export(NET, "float32"), ARTIFACT, Path("a"))


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_an_onnx_file_is_run_optimized_and_as_it_stands(
    variant: str, monkeypatch: pytest.MonkeyPatch
):
    found = {"bytes": 1, "sha256": "", "ops": {"Conv": 2}, "parity": None}
    monkeypatch.setattr(
        written,
        "onnx",
        lambda artifact, path, *, variant: Exported(path, variant, "onnx", **found),
    )
    monkeypatch.setattr(written, "onnx_predict", lambda path: ("predict", path))
    monkeypatch.setattr(written, "onnx_latency", lambda path, *, warmup, runs: TIMING)
    monkeypatch.setattr(written, "float_ops_of", lambda path: {"Conv": 1})
    monkeypatch.setattr(written, "onnx_integers", lambda path, *, optimized: optimized)
    stage = INT8 if variant == "int8" else NET
    made = written.write(Onnx(stage, variant), ARTIFACT, Path("a.onnx"))
    assert (made.batch, made.timing, made.compared) == (written.IMAGES, TIMING, {})
    assert (made.ops, made.float_ops) == ({"Conv": 2}, {"Conv": 1})
    ways = {"ONNX Runtime": True, "ONNX Runtime as it stands": False}
    assert made.integers == (ways if variant == "int8" else {})


def test_a_saved_model_is_asked_once_and_not_timed(monkeypatch: pytest.MonkeyPatch):
    """Every question starts TensorFlow anew."""
    told = []
    monkeypatch.setattr(written, "saved_model", lambda artifact, path: told.append(path))
    monkeypatch.setattr(written, "saved_model_predict", lambda path: ("predict", path))
    made = written.write(SavedModel(NET), ARTIFACT, Path("a"))
    assert told == [Path("a")]
    assert made.predict == ("predict", Path("a"))
    assert made.batch > 10**6
    assert (made.timing, made.ops, made.float_ops) == (None, {}, None)


def test_a_program_is_timed_on_a_picture(monkeypatch: pytest.MonkeyPatch):
    class Shaped:
        input_shape = (4, 5, 1)

    seen = []
    monkeypatch.setattr(written, "RUNS", 3)
    monkeypatch.setattr(written, "WARMUP", 1)
    monkeypatch.setattr(written, "stablehlo", lambda artifact, path: path)
    monkeypatch.setattr(written, "load_stablehlo", lambda path: lambda x: seen.append(x) or x)
    made = written.write(StableHLO(NET), Shaped(), Path("a"))
    assert made.timing.runs == 3
    assert [(x.shape, x.dtype) for x in seen] == [((1, 4, 5, 1), np.uint8)] * 4
    assert made.float_ops is None
