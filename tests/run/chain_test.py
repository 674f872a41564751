"""Chain: what stopping does not change, what is refused, and before what."""

import hashlib
import itertools
import json
import random
import re
import shutil
import signal
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from jaxmini import data, models, steps
from jaxmini.__main__ import main
from jaxmini.compress import quantize
from jaxmini.export import litert
from jaxmini.model import with_head
from jaxmini.recipe import (
    Contrastive,
    Distill,
    Export,
    Layout,
    PostTraining,
    Recipe,
    Supervised,
)
from jaxmini.run import chain
from jaxmini.run.chain import _fidelity
from jaxmini.run.report import storage

HERE = Path(__file__).parent
TINY, DOOMED = HERE / "tiny_recipe.py", HERE / "doomed.py"
STEPS = {"pretrain": 40, "teacher": 36, "student": 40, "int8": 40}


@pytest.fixture(autouse=True)
def _keep_the_compile_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "that of these tests")


def variables(folder: Path, stage: str) -> dict[str, np.ndarray]:
    with np.load(folder / "stages" / stage / "artifact" / "variables.npz") as stored:
        return dict(stored)


def accuracies(folder: Path) -> list[float | None]:
    report = json.loads((folder / "report.json").read_text())
    return [result["accuracy"] for result in (*report["stages"], *report["files"])]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def newest_arrays(checkpoints: Path) -> Path:
    """The largest file of the newest of two or more checkpoints."""
    steps = sorted(checkpoints.glob("step_*[0-9]"), key=lambda path: int(path.name[5:]))
    assert len(steps) >= 2
    files = [file for file in (steps[-1] / "arrays").rglob("*") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def finished(out: str) -> set[str]:
    return set(re.findall(r"^(\w+): finished by an earlier run$", out, re.MULTILINE))


# In the quick tests two stages are killed: one to damage a checkpoint of, and the last, which has a start.
@pytest.mark.parametrize(
    "killed",
    [("teacher", "int8"), pytest.param(tuple(STEPS), marks=pytest.mark.slow)],
    ids=["some", "every"],
)
def test_killed_in_stages_and_export_it_ends_as_if_undisturbed(killed, undisturbed, run, tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    print("seed of the moments:", seed)  # shown where this fails
    moments = random.Random(seed)
    command, done, said = ["run", TINY, "--workdir", tmp_path / "run"], set(), []
    for stage in killed:
        # After its second save and well before its last ones, anywhere in a step or a save.
        total = STEPS[stage]
        step, delay = moments.randint(3 * total // 8, 5 * total // 8), moments.uniform(0, 0.08)
        ended = run(DOOMED, "kill", stage, step, delay, *command)
        assert ended.code == -signal.SIGKILL, ended
        assert finished(ended.out) == done
        assert not (tmp_path / f"run/stages/{stage}/finished.json").exists()
        done = set(itertools.takewhile(lambda name: name != stage, STEPS))  # noqa: B023
        if stage == "teacher":
            flip(newest_arrays(tmp_path / "run/stages/teacher/checkpoints"))
        said.append(ended.out)
    resumed = said[killed.index("teacher") + 1]
    assert "is damaged and not used" in resumed
    assert re.search(r"^teacher: resuming at step \d+ of 36$", resumed, re.MULTILINE)

    ended = run(DOOMED, "kill", "export", 0, moments.uniform(0, 1), *command)
    assert ended.code == -signal.SIGKILL, ended
    ended = run("-m", "jaxmini", *command)
    assert ended.code == 0, ended
    assert finished(ended.out) == set(STEPS)

    for stage in STEPS:
        left, right = variables(undisturbed, stage), variables(tmp_path / "run", stage)
        assert left.keys() == right.keys()
        for name, values in left.items():
            assert values.dtype == right[name].dtype
            assert values.tobytes() == right[name].tobytes(), f"{stage}: {name}"
    file = Path("exports/tiny.tflite")
    assert sha256(undisturbed / file) == sha256(tmp_path / "run" / file)
    assert accuracies(undisturbed) == accuracies(tmp_path / "run")


def copied(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """What the command says as it refuses, without a traceback and without a step of training."""
    assert main(["run", *map(str, arguments)]) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert " steps of " not in said.out
    return said.err


def test_another_recipe_is_refused_and_said_what_differs(undisturbed, tmp_path, capsys):
    folder = copied(undisturbed, tmp_path)
    said = refused(capsys, TINY, "--workdir", folder, "teacher.epochs=7")
    assert f"workdir {folder} was begun with another recipe" in said
    assert re.search(r"teacher.*epochs.*6.*7", said)
    assert "--fresh" in said


def gates(folder: Path) -> dict[str, bool]:
    """Gate -> whether the report says that it was passed."""
    return {verdict.gate: verdict.passed for verdict in storage.read(folder).gates}


def test_a_finished_run_is_judged_again_by_other_gates(undisturbed, tmp_path, capsys):
    passed = {"max_bytes": True, "all_integer": True, "max_accuracy_drop": True}
    assert gates(undisturbed) == passed
    folder = copied(undisturbed, tmp_path)
    size, record = storage.read(folder).files[0].bytes, (folder / "recipe.json").read_bytes()

    assert main(["run", str(TINY), "--workdir", str(folder), "gates.0.limit=10"]) == 3
    said = capsys.readouterr()
    assert finished(said.out) == set(STEPS)
    assert " steps of " not in said.out
    row = rf"^max_bytes +tiny\.tflite +{size:,} bytes +at most 10 bytes +FAIL$"
    assert re.search(row, said.out, re.MULTILINE)
    assert len(re.findall(r" PASS$", said.out, re.MULTILINE)) == 2
    assert "1 of 3 gates failed: max_bytes of tiny.tflite\n" in said.out
    assert said.out.endswith(f"report: {folder / 'report.html'}\n")
    assert said.err == ""

    assert gates(folder) == passed | {"max_bytes": False}
    assert storage.read(folder).recipe["gates"][0]["limit"] == 10
    assert f"| {size:,} bytes | at most 10 bytes | FAIL |" in (folder / "report.md").read_text()
    assert "<b>FAIL</b> max_bytes of tiny.tflite" in (folder / "report.html").read_text()
    assert accuracies(folder) == accuracies(undisturbed)

    assert main(["run", str(TINY), "--workdir", str(folder)]) == 0
    assert "All 3 gates passed\n" in capsys.readouterr().out
    assert gates(folder) == passed
    assert (folder / "recipe.json").read_bytes() == record


MICRO = """
import dataclasses
import tiny_recipe
from jaxmini.run import gates

def get_config():
    recipe = tiny_recipe.get_config()
    (file,) = recipe.exports
    asked = gates.micro(file), gates.max_arena(file, {arena}), gates.only_ops(file, {ops})
    return dataclasses.replace(recipe, gates=asked)
"""


def test_gates_of_microcontrollers_run_the_file_there(undisturbed, tmp_path, capsys, monkeypatch):
    pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")
    monkeypatch.syspath_prepend(HERE)
    folder, config = copied(undisturbed, tmp_path), tmp_path / "micro.py"
    ops = tuple(storage.read(folder).files[0].ops)
    config.write_text(MICRO.format(arena=100_000, ops=ops))
    assert main(["run", str(config), "--workdir", str(folder)]) == 0
    assert "All 3 gates passed\n" in capsys.readouterr().out
    arena = storage.read(folder).files[0].arena_bytes
    assert 0 < arena < 100_000

    config.write_text(MICRO.format(arena=arena - 1, ops=ops[1:]))
    assert main(["run", str(config), "--workdir", str(folder)]) == 3
    row = rf"^max_arena +tiny\.tflite +an arena of {arena:,} bytes +.* at most {arena - 1:,} bytes +FAIL$"
    assert re.search(row, capsys.readouterr().out, re.MULTILINE)
    assert gates(folder) == {"micro": True, "max_arena": False, "only_ops": False}


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    said = refused(capsys, TINY, "--workdir", tmp_path)
    assert f"{tmp_path} is not a workdir of jaxmini: it holds thesis.tex" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        assert str(folder) in refused(capsys, TINY, "--workdir", folder)


def test_a_missing_exporter_is_refused_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "litert_converter", None)
    said = refused(capsys, TINY, "--workdir", tmp_path / "run")
    assert "litert_converter is not installed" in said
    assert "jaxmini[litert]" in said
    assert not (tmp_path / "run").exists()


def test_a_changed_byte_of_a_finished_stage_is_refused(undisturbed, tmp_path, capsys):
    folder = copied(undisturbed, tmp_path)
    file = folder / "stages" / "teacher" / "artifact" / "variables.npz"
    flip(file)
    said = refused(capsys, TINY, "--workdir", folder)
    assert f"{file}: its SHA-256 is not the one in artifact.json; it was changed: bring the" in said
    assert "--fresh" in said
    flip(file)
    result = folder / "stages" / "pretrain" / "finished.json"
    flip(result)
    assert f"{result} was changed since it was written" in refused(
        capsys, TINY, "--workdir", folder
    )


def test_a_converter_that_fails_after_all_training_is_one_message(
    undisturbed, tmp_path, monkeypatch, capsys
):
    folder = copied(undisturbed, tmp_path)
    script = tmp_path / "convert.py"
    script.write_text("raise SystemExit('no such operation')")
    monkeypatch.setattr(litert, "CONVERTER", script)
    said = refused(capsys, TINY, "--workdir", folder)
    assert said.startswith("jaxmini: tiny.tflite of stage 'int8' could not be written: convert.py")
    assert "no such operation" in said
    assert "the same command starts at the files again" in said


def test_a_folder_in_use_is_refused_and_a_full_disk_keeps_what_was_saved(start, tmp_path, capsys):
    folder = tmp_path / "run"
    child = start(DOOMED, "full", "pretrain", 20, 0, "run", TINY, "--workdir", folder)
    assert child.stdout.readline()
    child.send_signal(signal.SIGSTOP)  # or it may be done before this process has asked
    said = refused(capsys, TINY, "--workdir", folder)
    child.send_signal(signal.SIGCONT)
    assert f"workdir {folder} is in use by process {child.pid}" in said

    _, err = child.communicate(timeout=300)
    assert child.returncode == 1
    checkpoints = folder / "stages" / "pretrain" / "checkpoints"
    assert f"checkpoint {checkpoints / 'step_20'} could not be written" in err
    assert "The checkpoints before it are kept" in err
    assert "Traceback" not in err
    assert {path.name for path in checkpoints.iterdir()} == {"step_10", "step_15"}


def test_the_report_is_of_what_was_run(undisturbed):
    report = storage.read(undisturbed)
    assert [stage.name for stage in report.stages] == list(STEPS)
    assert {stage.name: stage.steps for stage in report.stages} == STEPS
    assert [stage.labels_used for stage in report.stages] == [0, 200, 0, 0]
    links = {link.name: link for link in report.provenance}
    assert links["int8"].made_from == ("digits, no labels", "student", "teacher")
    assert links["tiny.tflite"].made_from == ("int8",)
    assert sha256(undisturbed / "exports/tiny.tflite").startswith(links["tiny.tflite"].digest)
    pairs = {(pair.a, pair.b) for pair in report.fidelity}
    assert pairs == {
        ("teacher", "student"),
        ("student", "int8"),
        ("teacher", "int8"),
        ("int8", "tiny.tflite"),
    }
    assert report.confusion_of == "tiny.tflite"
    right = sum(row[index] for index, row in enumerate(report.confusion))
    assert right / 500 == pytest.approx(report.files[0].accuracy)


def test_each_stage_says_what_its_network_is_made_of(undisturbed):
    for stage in storage.read(undisturbed).stages:
        overview = (undisturbed / "stages" / stage.name / "parameters.txt").read_text()
        assert f"Total: {stage.params:,}" in overview
        assert "kernel" in overview


def test_who_starts_from_his_teacher_is_compared_with_him_once():
    teacher = Supervised(name="teacher", data=data.digits(), model=nn.Dense(10))
    student = Distill(name="student", data=data.digits(), start=teacher, teacher=teacher)
    logits = np.eye(10, dtype=np.float32)
    answers = {"teacher": logits, "student": np.roll(logits, 1, axis=0)}
    (pair,) = _fidelity(Recipe(stages=(teacher, student)), answers)
    assert (pair.a, pair.b, pair.top1) == ("teacher", "student", 0)


class Embedding(nn.Module):
    """Pixels to four numbers, which BatchNorm has seen the whole batch of."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        features = nn.Dense(4)(images.reshape(images.shape[0], -1))
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(features)


def pretraining() -> Contrastive:
    return Contrastive(
        name="pretrain",
        data=data.unlabelled(data.digits()),
        model=with_head(Embedding(), nn.Dense(3)),
        view=data.shift(1),
        optimizer=steps.sgd(0.05),
        epochs=0.5,
    )


def test_pretraining_alone_has_a_report(tmp_path):
    report = chain.run(Recipe((pretraining(),)), tmp_path / "run", title="t", command="c")
    assert [stage.accuracy for stage in report.stages] == [None]
    assert report.confusion == ()
    assert (tmp_path / "run" / "report.html").exists()


def test_a_chain_ends_in_a_file_of_rounded_kernels(tmp_path):
    net = Supervised(
        name="net",
        data=data.few_labels(data.digits(), 64),
        model=with_head(
            models.small_resnet(stem_width=4, stem_stride=2, widths=(4,), strides=(1,)),
            models.classifier(10),
        ),
        optimizer=steps.sgd(0.05),
        batch_size=32,
    )
    weights = Supervised(
        name="weights",
        data=net.data,
        start=net,
        batch_size=32,
        optimizer=steps.sgd(0.05),
        quantize=quantize.weights_only(quantize.lsq_per_channel(bits=4)),
    )
    file = Export(weights, "weights_only", "litert", layout=Layout(int4=True))
    report = chain.run(Recipe((net, weights), (file,)), tmp_path / "run", title="t", command="c")
    (written,) = report.files
    assert written.name == "weights-weights_only-litert.tflite"
    assert written.agreement == 1.0
    assert "0 differ" in written.checks["kernel integers"]
    assert report.stages[1].kind == "quantize + supervised"
    again = chain.run(Recipe((net, weights), (file,)), tmp_path / "run", title="t", command="c")
    assert again.files[0].accuracy == written.accuracy


def test_under_pmap_the_artifacts_are_the_same(tmp_path):
    pretrain = pretraining()
    teacher = Supervised(
        name="teacher",
        data=data.digits(),
        model=with_head(Embedding(), nn.Dense(10)),
        start=pretrain,
        optimizer=steps.sgd(0.05),
        epochs=0.5,
    )
    for placement in ("jit", "pmap"):
        chain.run(
            Recipe((pretrain, teacher)),
            tmp_path / placement,
            title="t",
            command="c",
            placement=placement,
        )
    for stage in ("pretrain", "teacher"):
        ours, theirs = variables(tmp_path / "jit", stage), variables(tmp_path / "pmap", stage)
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            np.testing.assert_allclose(values, theirs[name], atol=1e-4, err_msg=f"{stage} {name}")


def test_a_small_folder_of_pictures_ends_in_an_int8_file(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(32):
        picture = rng.integers(0, 128, (12, 12, 3), np.uint8) + np.uint8(127 * (index % 2))
        name = f"{('ash', 'oak')[index % 2]}/{index}.{('png', 'jpg')[index // 2 % 2]}"
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "pictures" / name)
    net = Supervised(
        name="net",
        data=data.folder(str(tmp_path / "pictures"), size=8, test=0.375),
        model=with_head(
            models.small_resnet(stem_width=4, stem_stride=2, widths=(4,), strides=(1,)),
            models.classifier(2),
        ),
        optimizer=steps.sgd(0.05),
        batch_size=16,
    )
    int8 = PostTraining(name="int8", data=net.data, start=net)
    file = Export(int8, "int8", "litert")
    report = chain.run(Recipe((net, int8), (file,)), tmp_path / "run", title="t", command="c")
    assert np.sum(report.confusion) == 12
    (written,) = report.files
    simulated = [finding for what, finding in written.checks.items() if "simulation" in what]
    assert len(simulated) == 2  # of which XNNPACK's kernels compute what is simulated
    assert all(finding.startswith("24 logits, ") for finding in simulated)
    assert simulated[0].startswith("24 logits, 0 differ")
    assert written.layers_note == "on 12 test pictures"
