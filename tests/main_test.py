"""The command line: exit codes, one-line messages, what each command prints and writes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxmini.__main__ import _parse, main
from jaxmini.data import Normalization
from jaxmini.evaluate.interpreter import LITERT
from jaxmini.export.artifact import Artifact
from jaxmini.export.tflite import tflite
from jaxmini.model import from_linen
from jaxmini.run import checkpoint
from jaxmini.run.log import Log
from jaxmini.steps.placement import PLACEMENTS

ROOT = Path(__file__).parent.parent
CONFIG = '''"""A linear classifier of the digits.

More about it.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxmini import data, losses, steps
from jaxmini.recipe import Recipe, Supervised
from jaxmini.run import gates


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(images.reshape(images.shape[0], 64))


@dataclasses.dataclass(frozen=True)
class broken(losses.cross_entropy):
    """Not a number from an epoch on."""

    epoch: int = 9

    def __call__(self, signals, batch):
        value, metrics = super().__call__(signals, batch)
        return jnp.where(batch["epoch"][0] >= self.epoch, jnp.nan, value), metrics


def get_config():
    net = Supervised(
        name="net",
        data=data.few_labels(data.digits(), 64),
        model=Linear(),
        loss=broken(),
        optimizer=steps.sgd(0.05),
        epochs=4,
        batch_size=32,
    )
    return Recipe((net,), gates=(gates.min_accuracy(net, 0.05),))
'''


class Small(nn.Module):
    """One dense layer on the pixels."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(3)(images.reshape(images.shape[0], 16))


@pytest.fixture
def config(tmp_path, monkeypatch) -> str:
    """The path of a config file, each time under a module name of its own; the folder is the current one."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "that of these tests")
    monkeypatch.delenv("JAXMINI_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{tmp_path.name}.py"
    path.write_text(CONFIG)
    yield str(path)
    sys.modules.pop(path.stem, None)


def failed(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("jaxmini: ")
    assert "Traceback" not in said
    return said.removeprefix("jaxmini: ").rstrip("\n")


def misused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_a_run_writes_its_report_into_the_folder_of_the_config_s_name(config, capsys):
    assert main(["run", config]) == 0
    folder = Path("runs") / Path(config).stem
    report = json.loads((folder / "report.json").read_text())
    assert report["title"] == "A linear classifier of the digits."
    assert report["command"] == f"jaxmini run {config}"
    said = capsys.readouterr().out
    assert "net: 8 steps of 32 pictures of digits, 64 labels" in said
    assert said.endswith(f"report: {folder.absolute() / 'report.html'}\n")

    assert main(["run", config]) == 0
    assert "net: finished by an earlier run" in capsys.readouterr().out
    assert main(["run", config, "--fresh", "net.epochs=2"]) == 0
    assert "net: 4 steps of 32 pictures" in capsys.readouterr().out


def test_a_run_that_fails_a_gate_is_3_and_has_its_report(config, capsys):
    assert main(["run", config, "gates.0.accuracy=1"]) == 3
    folder = Path("runs") / Path(config).stem
    said = capsys.readouterr()
    assert re.search(r"^min_accuracy +net +\d+\.\d+% +at least 100% +FAIL$", said.out, re.MULTILINE)
    assert "1 of 1 gates failed: min_accuracy of net\n" in said.out
    assert said.out.endswith(f"report: {folder.absolute() / 'report.html'}\n")
    assert said.err == ""
    (verdict,) = json.loads((folder / "report.json").read_text())["gates"]
    assert verdict.pop("measured").endswith("%")
    assert verdict == {
        "gate": "min_accuracy",
        "of": "net",
        "limit": "at least 100%",
        "passed": False,
    }

    assert main(["run", config]) == 0
    said = capsys.readouterr().out
    assert "net: finished by an earlier run" in said
    assert "The one gate passed\n" in said
    assert "gates.0.accuracy expects float" in failed(capsys, "run", config, "gates.0.accuracy=a")


@pytest.mark.parametrize("place", [0, 2, 3])
def test_overrides_may_stand_before_and_after_options(config, capsys, place):
    arguments = ["--workdir", "here", "--fresh"]
    arguments.insert(place, "net.epochs=1")
    assert main(["run", config, *arguments]) == 0
    assert "net: 2 steps of 32 pictures" in capsys.readouterr().out
    assert Path("here/report.html").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("net.epoch=3", "net: no field 'epoch'; there are: name, data, "),
        ("nett.epochs=3", "no stage 'nett'; there are: net, exports, gates; did you mean 'net'?"),
        ("net.epochs=many", "net.epochs expects float, got 'many'"),
        ("net.epochs", "override 'net.epochs': expected stage.field=value"),
        ("net.batch_size=20", "stage 'net': batch_size 20 does not divide among 8 devices"),
        ("net.batch_size=128", "batch_size 128 is more than the 64 pictures"),
    ],
)
def test_a_bad_override_is_one_message(config, capsys, override, message):
    said = failed(capsys, "run", config, override)
    assert message in said
    assert "\n" not in said
    assert not Path("runs").exists()


def test_a_bad_config_is_one_message(config, capsys):
    assert failed(capsys, "run", "no/such/file.py") == "no config file no/such/file.py"
    near = config.replace(".py", "s.py")
    assert failed(capsys, "run", near) == f"no config file {near}; did you mean {config!r}?"
    Path("empty_config.py").write_text("")
    assert "empty_config.py has no function get_config()" in failed(
        capsys, "run", "empty_config.py"
    )


def test_bad_usage_is_2(config, capsys):
    assert "COMMAND" in misused(capsys)
    assert "invalid choice: 'runn'" in misused(capsys, "runn")
    assert "required: config" in misused(capsys, "run")
    assert "invalid choice: 'gpu'" in misused(capsys, "run", config, "--placement", "gpu")
    assert "--frsh" in misused(capsys, "run", config, "--frsh")
    assert "written --workdir /x" in misused(capsys, "run", config, "workdir=/x")
    assert "written --placement pmap" in misused(capsys, "run", config, "placement=pmap")
    assert "'fresh=true' changes no stage's field; the option is written --fresh\n" in misused(
        capsys, "run", config, "--tensorboard", "fresh=true"
    )
    assert "written --stage net" in misused(capsys, "preview", config, "stage=net")


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("epochs=4", "epoch=4", "Supervised: no argument 'epoch'; .*did you mean 'epochs'"),
        (
            "steps.sgd",
            "steps.sdg",
            "module 'jaxmini.steps' has no attribute 'sdg'; did you mean 'sgd'",
        ),
        ("loss=broken()", "loss='broken'", "stage 'net': loss is 'broken', expected"),
    ],
)
def test_a_mistake_in_a_config_is_told_with_its_line(config, capsys, right, wrong, said):
    Path(config).write_text(CONFIG.replace(right, wrong))
    assert re.match(rf"{config}:\d+: {said}", failed(capsys, "run", config))
    assert not Path("runs").exists()


def test_a_slip_in_one_s_own_loss_is_one_message_and_says_how_to_see_where(config, capsys):
    Path(config).write_text(CONFIG.replace("jnp.nan", "jnp.nann"))
    assert failed(capsys, "run", config) == (
        "stage 'net': its loss failed with AttributeError: module 'jax.numpy' has no attribute "
        "'nann' (JAXMINI_TRACEBACK=1 shows where)"
    )


@pytest.mark.parametrize(
    ("override", "cause"),
    [
        ("net.loss.epoch=2", "loss is nan at step 5"),
        ("net.optimizer.learning_rate=1e30", "a parameter is not finite after step 2"),
    ],
)
def test_a_run_that_diverges_names_stage_and_step(config, capsys, override, cause):
    said = failed(capsys, "run", config, override)
    assert "stage 'net' diverged: " in said
    assert cause in said
    assert "\n" not in said
    folder = Path("runs") / Path(config).stem / "stages/net/checkpoints"
    kept = re.search(r"The checkpoint of step (\d+) is kept", said)
    assert checkpoint.latest_step(folder) == int(kept[1])


def test_a_traceback_is_shown_to_who_asks(config, capsys, monkeypatch):
    monkeypatch.setenv("JAXMINI_TRACEBACK", "1")
    assert main(["run", config, "net.epoch=3"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("jaxmini: " + said.splitlines()[-1].removeprefix("jaxmini: ") + "\n")


@pytest.fixture
def _in_the_foreground() -> Iterator[None]:
    """A shell starts what runs in the background with Ctrl-C ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "jaxmini: interrupted; the same command continues the run\n"),
        (signal.SIGTERM, 75, "jaxmini: stage 'net' was told to stop and saved step 3; "),
    ],
)
@pytest.mark.usefixtures("_in_the_foreground")
def test_a_run_that_is_stopped_goes_on_later(config, capsys, monkeypatch, number, code, message):
    progress = Log.progress
    handler = signal.getsignal(number)

    def interrupted(log: Log, stage: str, step: int, *figures: object) -> None:
        progress(log, stage, step, *figures)
        if step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Log, "progress", interrupted)
    assert main(["run", config]) == code
    assert capsys.readouterr().err.startswith(message)
    assert signal.getsignal(number) == handler
    monkeypatch.setattr(Log, "progress", progress)
    assert main(["run", config]) == 0
    assert re.search(r"net: resuming at step \d of 8", capsys.readouterr().out)


def test_preview_draws_what_each_stage_sees(config, capsys):
    assert main(["preview", config, "--output", "pictures"]) == 0
    path = Path(f"pictures/{Path(config).stem}-net.png")
    assert capsys.readouterr().out == f"{path}\n"
    with Image.open(path) as picture:
        assert min(picture.size) > 30
    assert failed(capsys, "preview", config, "--stage", "nett") == (
        "no stage 'nett'; there are: net; did you mean 'net'?"
    )


def test_describe_prints_what_a_file_says_of_itself(config, capsys):
    model = from_linen(Small())
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    artifact = Artifact(model, variables, ("a", "b", "c"), Normalization(0.0, 1.0), (4, 4, 1))
    tflite(artifact, "net.tflite", backend="litert")
    assert main(["describe", "net.tflite"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["labels"] == ["a", "b", "c"]
    assert described["input"]["shape"] == [1, 4, 4, 1]

    near = "; did you mean 'net.tflite'?"
    for missing, told in (("nett.tflite", near), ("elsewhere/net.tflite", "")):
        assert failed(capsys, "describe", missing) == f"no file {missing}{told}"
    Path("noise.tflite").write_bytes(np.random.default_rng(0).bytes(200))
    assert "noise.tflite" in failed(capsys, "describe", "noise.tflite")


@pytest.mark.parametrize(
    "text", ["run c.py {} --fresh", "run --fresh c.py {}", "run c.py --fresh {}"]
)
@pytest.mark.parametrize("words", [[], ["a.b=1"], ["a.b=-1", "c.d=x=y"]])
def test_overrides_are_gathered_in_their_order(text: str, words: list[str]):
    options = _parse(text.format(" ".join(words)).split())
    assert (options.config, options.overrides, options.fresh) == ("c.py", words, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["describe", "a.tflite", "b.tflite"], "unrecognized arguments: b.tflite"),
        (["run", "c.py", "a=1", "-x"], "unrecognized arguments: -x"),
        (["demo", "a.tflite", "--serve", "port"], "invalid int value: 'port'"),
        (["benchmark", "a.tflite", "--runs", "many"], "invalid int value: 'many'"),
        (["parity", "artifact"], "required: file"),
        (["micro", "a.tflite"], "required: folder"),
    ],
)
def test_what_a_command_does_not_take_is_2(capsys, arguments: list[str], said: str):
    assert said in misused(capsys, *arguments)


def test_a_page_is_served_where_it_is_asked_for_and_at_a_usual_port():
    assert _parse(["demo", "a.tflite"]).serve is None
    assert _parse(["demo", "a.tflite", "--serve"]).serve == 8000
    assert _parse(["demo", "a.tflite", "--serve", "0"]).serve == 0


def test_choices_are_those_there_are():
    for kernels in LITERT:
        options = ["benchmark", "a.tflite", "--kernels", kernels.value]
        assert _parse(options).kernels == kernels
    for placement in PLACEMENTS:
        assert _parse(["run", "c.py", "--placement", placement]).placement == placement


def test_help_names_the_commands_and_waits_for_no_library():
    script = (
        "import sys, jaxmini.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit as end: code = end.code\n"
        "assert not {'jax', 'flax', 'numpy', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    begun = time.monotonic()
    child = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert time.monotonic() - begun < 10
    for command in ("run", "preview", "describe", "benchmark", "parity", "demo", "micro"):
        assert re.search(rf"^ +{command}\b", child.stdout, re.MULTILINE)
