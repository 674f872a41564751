"""Layers of a file: measured where its numbers can be read, else the reason is told."""

import dataclasses
from pathlib import Path

import pytest

from jaxmini import data, models, recipe
from jaxmini.compress import quantize
from jaxmini.export import Artifact
from jaxmini.export import artifact as artifacts
from jaxmini.run.formats import Onnx
from jaxmini.run.layers import PICTURES, layers_of
from jaxmini.run.report import storage
from jaxmini.run.stage import Distill, Export, Supervised

TEST = data.digits().load().test
NET = Supervised(name="net", data=data.digits(), model=models.classifier(10))
INT8 = Distill(name="int8", data=NET.data, start=NET, teacher=NET, quantize=quantize.int8())


@pytest.fixture(scope="module")
def trained(undisturbed: Path) -> Artifact:
    recipe.load(
        Path(__file__).with_name("tiny_recipe.py")
    )  # artifacts name the classes of their nets
    return artifacts.load(undisturbed / "stages" / "int8" / "artifact")


def test_the_report_of_a_run_has_the_layers_of_its_file(undisturbed: Path, trained: Artifact):
    (file,) = storage.read(undisturbed).files
    assert file.layers_note == f"on {PICTURES} test pictures"
    # A convolution of one channel is a depthwise one in the file.
    operators = ["DEPTHWISE_CONV_2D", "CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED"]
    assert [layer.operator for layer in file.layers] == operators
    assert all(layer.sqnr > 5 and layer.alone > 20 for layer in file.layers)
    assert [(layer.differing, layer.largest) for layer in file.layers] == [(0.0, 0)] * 5
    again, note = layers_of(
        Export(INT8, "int8", "litert"), trained, undisturbed / "exports" / file.name, TEST.image
    )
    assert note == file.layers_note
    for one, other in zip(again, file.layers, strict=True):
        # The run's own program may have been optimized and this one not.
        assert (one.sqnr, one.alone) == pytest.approx((other.sqnr, other.alone), rel=1e-4)
        assert dataclasses.replace(one, sqnr=other.sqnr, alone=other.alone) == other


@pytest.mark.parametrize(
    ("export", "note"),
    [
        (Export(NET, "float32"), ""),
        (Export(NET, "float16"), "not measured: only int8 files are"),
        (Onnx(INT8), "not measured: a .onnx file does not show what its layers give each other"),
    ],
)
def test_what_cannot_be_measured_is_told(
    export: Export, note: str, trained: Artifact, tmp_path: Path
):
    assert layers_of(export, trained, tmp_path / "a", TEST.image) == ((), note)


def test_a_file_that_does_not_run_is_told(trained: Artifact, tmp_path: Path):
    path = tmp_path / "a.tflite"
    path.write_bytes(b"no such file")
    layers, note = layers_of(Export(INT8), trained, path, TEST.image)
    assert layers == ()
    assert note.startswith("not measured: a.tflite: the interpreter")
