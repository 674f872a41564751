"""Delivery: the figures of a file are those of running it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxmini import data, models, recipe
from jaxmini.compress import quantize
from jaxmini.evaluate.accuracy import accuracy, predict_all
from jaxmini.evaluate.runtime import tflite_predict
from jaxmini.export import Layout
from jaxmini.export import artifact as artifacts
from jaxmini.run.delivery import deliver
from jaxmini.run.log import Log
from jaxmini.run.outcome import Outcome, Surroundings
from jaxmini.run.report import storage
from jaxmini.run.report.content import FileResult, StageResult
from jaxmini.run.stage import Export, Supervised
from jaxmini.run.workdir import Workdir
from jaxmini.steps import placement

TEST = data.digits().load().test


@pytest.fixture(scope="module", autouse=True)
def _nets_of_the_recipe() -> None:
    """Artifacts name the classes of their nets; these stand in the recipe's own file."""
    recipe.load(Path(__file__).with_name("tiny_recipe.py"))


def test_the_report_s_figures_are_the_files_own(undisturbed):
    path = undisturbed / "exports" / "tiny.tflite"
    (file,) = storage.read(undisturbed).files
    answers = predict_all(tflite_predict(path), TEST.image)
    assert file.bytes == path.stat().st_size
    assert file.accuracy == pytest.approx(accuracy(answers, TEST.label))
    trained = artifacts.load(undisturbed / "stages" / "int8" / "artifact")
    expected = predict_all(artifacts.predict(trained), TEST.image)
    assert file.agreement == pytest.approx(np.mean(answers.argmax(-1) == expected.argmax(-1)))
    assert file.latency_ms > 0
    assert all(
        "0 differ" in finding for what, finding in file.checks.items() if "simulation" not in what
    )
    assert any("simulation" in what for what in file.checks)
    assert file.ops
    assert file.float_ops == {}


def test_a_float_file_answers_as_its_network(undisturbed, tmp_path):
    trained = artifacts.load(undisturbed / "stages" / "student" / "artifact")
    stage = Supervised(name="net", data=data.digits(), model=models.classifier(10))
    outcome = Outcome(stage, trained, StageResult("net", "supervised", "digits"))
    with Workdir.open(tmp_path / "run", {}) as workdir:
        around = Surroundings(workdir, Log(workdir.path), placement.jit, trained.normalization)
        file, answers = deliver(Export(stage, "float32", "litert"), outcome, TEST, around)
    expected = predict_all(artifacts.predict(trained), TEST.image)
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    assert file.name == "net-float32-litert.tflite"
    assert file.made_from == "net"
    assert file.float_ops.keys() >= {"CONV_2D", "FULLY_CONNECTED"}
    assert file.float_ops.items() <= file.ops.items()
    assert file.accuracy == pytest.approx(accuracy(answers, TEST.label))
    assert (tmp_path / "run" / "exports" / file.name).stat().st_size == file.bytes


def test_a_file_of_another_layout_answers_as_the_usual_one(undisturbed, tmp_path):
    trained = artifacts.load(undisturbed / "stages" / "int8" / "artifact")
    start = Supervised(name="net", data=data.digits(), model=models.classifier(10))
    stage = dataclasses.replace(
        start, name="int8", start=start, model=None, quantize=quantize.int8()
    )
    outcome = Outcome(stage, trained, StageResult("int8", "supervised", "digits"))
    layouts = {
        "usual": Layout(),
        "other": Layout(input="uint8", output="float32", batch=3, task_metadata=True),
    }
    with Workdir.open(tmp_path / "run", {}) as workdir:
        around = Surroundings(workdir, Log(workdir.path), placement.jit, trained.normalization)
        (usual, expected), (other, answers) = (
            deliver(Export(stage, "int8", "litert", name, layout), outcome, TEST, around)
            for name, layout in layouts.items()
        )
    np.testing.assert_array_equal(answers, expected)
    assert (other.accuracy, other.checks) == (usual.accuracy, usual.checks)
    assert other.float_ops == {"DEQUANTIZE": 1}
    assert [layer.name for layer in other.layers] == [layer.name for layer in usual.layers]
    for ours, theirs in zip(other.layers, usual.layers, strict=True):  # a batch of 3 is filled up
        assert ours.sqnr == pytest.approx(theirs.sqnr, abs=1.0)
    assert other.latency_ms > 0


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_test_pictures_are_enough(count, undisturbed, tmp_path):
    trained = artifacts.load(undisturbed / "stages" / "int8" / "artifact")
    start = Supervised(name="net", data=data.digits(), model=models.classifier(10))
    stage = dataclasses.replace(
        start, name="int8", start=start, model=None, quantize=quantize.int8()
    )
    outcome = Outcome(stage, trained, StageResult("int8", "supervised", "digits"))
    export = Export(stage, "int8", "litert", layout=Layout(batch=2))
    with Workdir.open(tmp_path / "run", {}) as workdir:
        around = Surroundings(workdir, Log(workdir.path), placement.jit, trained.normalization)
        file, answers = deliver(export, outcome, TEST.take(np.arange(count)), around)
    assert answers.shape == (count, 10)
    simulated = [finding for what, finding in file.checks.items() if "simulation" in what]
    assert len(simulated) == 2  # of which XNNPACK's kernels compute what is simulated
    assert all(finding.startswith(f"{10 * count} logits, ") for finding in simulated)
    assert simulated[0].startswith(f"{10 * count} logits, 0 differ")
    assert file.layers_note == f"on {count} test pictures"


@pytest.fixture
def on_micro(undisturbed, tmp_path):
    """A stage's network -> the figures of its file, which was run in TFLite-Micro."""
    pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")

    def delivered(name: str, variant: str) -> FileResult:
        trained = artifacts.load(undisturbed / "stages" / name / "artifact")
        stage = Supervised(name="net", data=data.digits(), model=models.classifier(10))
        if variant == "int8":
            stage = dataclasses.replace(
                stage, name="int8", start=stage, model=None, quantize=quantize.int8()
            )
        outcome = Outcome(stage, trained, StageResult("net", "supervised", "digits"))
        with Workdir.open(tmp_path / "run", {}) as workdir:
            around = Surroundings(workdir, Log(workdir.path), placement.jit, trained.normalization)
            export = Export(stage, variant, "litert")
            return deliver(export, outcome, TEST, around, on_micro=True)[0]

    return delivered


def test_a_file_is_run_in_tflite_micro_where_that_is_asked_for(on_micro):
    file = on_micro("int8", "int8")
    assert file.micro == ()
    assert file.arena_bytes > 0
    assert file.checks["TFLite-Micro"].startswith(
        f"runs; arena {file.arena_bytes:,} bytes; 1,000 logits, "
    )


def test_what_does_not_run_there_says_why(on_micro):
    file = on_micro("student", "float16")
    (obstacle,) = file.micro
    assert obstacle.startswith("DEQUANTIZE reads float16 weights")
    assert file.arena_bytes is None
    assert "TFLite-Micro" not in file.checks


def test_floats_are_none_for_a_microcontroller_though_they_run_there(on_micro):
    file = on_micro("student", "float32")
    *floats, source, logits = file.micro
    assert floats
    assert all("computes in floats: train the network with quantize" in why for why in floats)
    assert source.startswith("its input is float32")
    assert logits.startswith("its output is float32")
    assert file.arena_bytes > 0
