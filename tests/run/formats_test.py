"""Formats: exports besides .tflite files belong to a recipe, and are measured by running what was written."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxmini import data, models, recipe
from jaxmini.compress import quantize
from jaxmini.evaluate.accuracy import accuracy, predict_all
from jaxmini.evaluate.onnx_runtime import onnx_predict
from jaxmini.export import Artifact, load_stablehlo
from jaxmini.export import artifact as artifacts
from jaxmini.recipe import Export, Onnx, Recipe, RecipeError, SavedModel, StableHLO, override
from jaxmini.run import gates
from jaxmini.run.delivery import deliver
from jaxmini.run.log import Log
from jaxmini.run.outcome import Outcome, Surroundings
from jaxmini.run.recording import record_of
from jaxmini.run.report.content import FileResult, StageResult
from jaxmini.run.stage import Distill, Supervised
from jaxmini.run.workdir import Workdir
from jaxmini.run.written import bytes_of, digest_of
from jaxmini.steps import placement

TEST = data.digits().load().test
NET = Supervised(name="net", data=data.digits(), model=models.classifier(10))
INT8 = Distill(name="int8", data=NET.data, start=NET, teacher=NET, quantize=quantize.int8())


@pytest.fixture(scope="module")
def trained(undisturbed: Path) -> dict[str, Artifact]:
    recipe.load(
        Path(__file__).with_name("tiny_recipe.py")
    )  # artifacts name the classes of their nets
    return {
        name: artifacts.load(undisturbed / "stages" / name / "artifact")
        for name in ("student", "int8")
    }


def delivered(
    export: Export, artifact: Artifact, folder: Path
) -> tuple[FileResult, np.ndarray, Path]:
    outcome = Outcome(
        export.stage, artifact, StageResult(export.stage.name, "supervised", "digits")
    )
    with Workdir.open(folder, {}) as workdir:
        around = Surroundings(workdir, Log(workdir.path), placement.jit, artifact.normalization)
        file, answers = deliver(export, outcome, TEST, around)
    assert file.accuracy == pytest.approx(accuracy(answers, TEST.label))
    return file, answers, folder / "exports" / file.name


def test_an_integer_onnx_file(trained: dict[str, Artifact], tmp_path: Path):
    file, answers, path = delivered(Onnx(INT8), trained["int8"], tmp_path / "run")
    assert (file.name, file.variant, file.backend) == ("int8.onnx", "int8", "onnx")
    assert file.bytes == path.stat().st_size
    np.testing.assert_array_equal(predict_all(onnx_predict(path), TEST.image), answers)
    simulated = [file.checks[what] for what in file.checks if "simulation" in what]
    # ONNX Runtime rounds means otherwise at ties, which is where XNNPACK and the simulation agree.
    assert len(simulated) == 2
    assert all(re.search("by at most [01]; same answer on 100.00 %", each) for each in simulated)
    assert "0 differ" in file.checks["kernel integers"]
    assert file.ops["Conv"] == 2
    assert file.float_ops["QuantizeLinear"] == file.ops["QuantizeLinear"]
    assert file.layers == ()
    assert file.layers_note.startswith("not measured: a .onnx file")
    assert file.latency_ms > 0


def test_a_float_onnx_file(trained: dict[str, Artifact], tmp_path: Path):
    artifact = trained["student"]
    file, answers, _ = delivered(Onnx(NET, "float32", name="a"), artifact, tmp_path / "run")
    expected = predict_all(artifacts.predict(artifact), TEST.image)
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-4)
    assert (file.name, file.checks) == ("a.onnx", {})
    assert file.float_ops["Conv"] == file.ops["Conv"] == 2


def test_a_program(trained: dict[str, Artifact], tmp_path: Path):
    artifact = trained["student"]
    file, answers, path = delivered(StableHLO(NET), artifact, tmp_path / "run")
    assert (file.name, file.backend) == ("net-float32.stablehlo", "stablehlo")
    expected = predict_all(artifacts.predict(artifact), TEST.image)
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(predict_all(load_stablehlo(path), TEST.image), answers)
    assert file.bytes == bytes_of(path) == sum(f.stat().st_size for f in path.iterdir())
    assert (file.ops, file.float_ops) == ({}, None)
    assert file.latency_ms > 0


@pytest.mark.slow
def test_a_saved_model(trained: dict[str, Artifact], tmp_path: Path):
    artifact = trained["student"]
    file, answers, path = delivered(SavedModel(NET), artifact, tmp_path / "run")
    assert file.name == "net-float32.saved_model"
    expected = predict_all(artifacts.predict(artifact), TEST.image)
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-4)
    assert file.bytes == bytes_of(path)
    assert file.latency_ms is None


def test_the_digest_of_a_folder_is_that_of_its_files(tmp_path: Path):
    (tmp_path / "a").write_text("1")
    digest = digest_of(tmp_path)
    assert digest == digest_of(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("")
    assert len({digest, digest_of(tmp_path), digest_of(tmp_path / "a")}) == 3


def test_recipes_record_and_override_them():
    files = (Onnx(INT8), StableHLO(NET), Export(NET, "float32", "litert"))
    chain = Recipe((NET, INT8), files, gates=(gates.only_ops(files[0], ("Conv", "Gemm")),))
    record = record_of(chain)["exports"]
    assert record["int8.onnx"] == {
        "stage": {"stage": "int8"},
        "variant": "int8",
        "backend": "onnx",
        "name": None,
    }
    assert list(record)[1:] == ["net-float32.stablehlo", "net-float32-litert.tflite"]
    changed = override(chain, "exports.0.name=small")
    assert type(changed.exports[0]) is Onnx
    assert changed.gates[0].export.file_name == "small.onnx"
    assert override(chain, "net.epochs=3").exports[1].stage.epochs == 3
    with pytest.raises(RecipeError, match="exports.0.backend expects"):
        override(chain, "exports.0.backend=litert")


def test_exports_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"unknown variant 'int-8'; .*did you mean 'int8'"):
        Onnx(INT8, "int-8")
    with pytest.raises(ValueError, match=r"unknown backend 'onnx'; there are jax2tf, litert"):
        Export(INT8, backend="onnx")
    with pytest.raises(ValueError, match="the stage trains in float"):
        Onnx(NET, "int8")
    with pytest.raises(ValueError, match="the stage trains in integers"):
        Onnx(INT8, "float32")


def test_operations_are_those_of_the_format():
    with pytest.raises(ValueError, match=r"ONNX has no operation 'CONV'. Did you mean 'Conv'"):
        gates.only_ops(Onnx(INT8), ("CONV",))


@pytest.mark.parametrize("export", [StableHLO(NET), SavedModel(NET)], ids=lambda e: e.ending)
def test_gates_of_operations_need_a_format_that_tells_them(export: Export):
    message = (
        rf"gate only_ops: what operations {export.file_name} holds is not told.*Onnx\(\.\.\.\)"
    )
    with pytest.raises(ValueError, match=message):
        gates.only_ops(export, ("ADD",))
    with pytest.raises(ValueError, match="gate all_integer: what operations"):
        gates.all_integer(export)


def test_gates_of_latency_need_a_format_that_is_timed():
    file, folder = Export(INT8), SavedModel(NET)
    assert gates.max_latency_ratio(StableHLO(NET), file, 2).export.is_timed
    with pytest.raises(ValueError, match="other is net-float32.saved_model, which is not timed"):
        gates.max_latency_ratio(file, folder, 1)
    with pytest.raises(ValueError, match="export is net-float32.saved_model"):
        gates.max_latency_ratio(folder, file, 1)
