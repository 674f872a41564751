"""Process: real processes over loopback, how one that fails ends all, and what the environment says."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.export import ConversionError
from jaxmini.losses.loss import read
from jaxmini.model import from_linen
from jaxmini.run import process
from jaxmini.run.loop import DivergedError, Preempted

HERE = Path(__file__).parent
SHORT, DOOMED = HERE / "short_recipe.py", HERE / "doomed.py"
AMONG_SEVERAL = (
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "OMPI_COMM_WORLD_SIZE",
    "TPU_WORKER_HOSTNAMES",
    "JAX_COORDINATOR_ADDRESS",
    "JAXMINI_NUM_PROCESSES",
    "JAXMINI_PROCESS_ID",
)


def pair(start: Callable[..., subprocess.Popen], *commands: tuple) -> list[subprocess.Popen]:
    """Two processes of one run, on this machine only."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return [
        start(
            *command,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_COORDINATOR_BIND_ADDRESS=address,
            JAXMINI_NUM_PROCESSES=2,
            JAXMINI_PROCESS_ID=index,
        )
        for index, command in enumerate(commands)
    ]


def outputs(children: list[subprocess.Popen], timeout: float = 300) -> list[tuple[int, str, str]]:
    written = [child.communicate(timeout=timeout) for child in children]
    return [(child.returncode, *texts) for child, texts in zip(children, written, strict=True)]


@pytest.fixture(scope="module")
def explained(run: Callable[..., tuple], tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """The folder of a run of one process with two devices, and what it said of convolutions."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAXMINI_CPU": "explain",
    }
    ended = run("-m", "jaxmini", "run", SHORT, "--workdir", folder, **environment)
    assert ended.code == 0, ended
    said = [line for line in ended.err.splitlines() if line.startswith("convolution: ")]
    return folder, said


@pytest.fixture(scope="module")
def alone(explained: tuple) -> Path:
    """The folder of a run of one process with two devices."""
    return explained[0]


def test_the_command_line_has_the_rule_before_it_compiles(explained):
    _, said = explained
    assert any("abreast.forward" in line for line in said), said


def assert_alike(left: Path, right: Path) -> None:
    """The artifacts of two runs hold the same numbers, up to the order of sums."""
    for stage in ("pretrain", "teacher"):
        file = Path("stages", stage, "artifact", "variables.npz")
        with np.load(left / file) as ours, np.load(right / file) as theirs:
            assert ours.files == theirs.files
            for name in ours.files:
                np.testing.assert_allclose(
                    ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=f"{stage} {name}"
                )


def test_two_processes_train_what_one_does_and_one_of_them_writes(start, alone, tmp_path):
    command = ("run", SHORT, "--workdir", tmp_path / "run")
    mute = (DOOMED, "full", "start", 0, 0, *command)  # can write to no file at all
    first, second = outputs(pair(start, ("-m", "jaxmini", *command), mute))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "teacher: 16 steps of 32 pictures" in first[1]
    assert "teacher" not in second[1]
    assert (tmp_path / "run" / "report.html").exists()
    assert_alike(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_gate_that_failed_is_the_exit_code_of_both(start, alone, tmp_path):
    shutil.copytree(alone, tmp_path / "run")
    command = ("-m", "jaxmini", "run", SHORT, "--workdir", tmp_path / "run", "gates.0.accuracy=1")
    first, second = outputs(pair(start, command, command))
    assert (first[0], second[0]) == (process.GATE_FAILED,) * 2, (first, second)
    assert "teacher: finished by an earlier run\n" in first[1]
    assert "1 of 1 gates failed: min_accuracy of teacher\n" in first[1]
    assert "min_accuracy" not in second[1]


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(start, alone, tmp_path):
    command = ("run", SHORT, "--workdir", tmp_path / "run")
    told = (DOOMED, "SIGTERM", "teacher", 3, 0, *command)
    first, second = outputs(pair(start, ("-m", "jaxmini", *command), told))
    assert (first[0], second[0]) == (process.PREEMPTED,) * 2, (first, second)
    (step,) = re.findall(r"stage 'teacher' was told to stop and saved step (\d+);", first[2])

    first, second = outputs(pair(start, *[("-m", "jaxmini", *command)] * 2))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "pretrain: finished by an earlier run\n" in first[1]
    assert f"teacher: resuming at step {step} of 16\n" in first[1]
    assert_alike(tmp_path / "run", alone)


def test_an_error_in_one_process_ends_both_at_once(start, tmp_path):
    command = ("run", SHORT, "--workdir", tmp_path / "run")
    children = pair(
        start, ("-m", "jaxmini", *command), (DOOMED, "raise", "pretrain", 2, 0, *command)
    )
    children[1].wait(300)
    ended = time.monotonic()
    first, second = outputs(children, timeout=30)
    assert time.monotonic() - ended < 20
    assert second[0] == 1
    assert "RuntimeError: doomed" in second[2]
    assert first[0] != 0


@pytest.fixture
def environment(monkeypatch):
    """Sets variables, in an environment that says nothing of several processes."""
    for name in AMONG_SEVERAL:
        monkeypatch.delenv(name, raising=False)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"JAXMINI_NUM_PROCESSES": "1"}, False),
        ({"JAXMINI_NUM_PROCESSES": "2"}, True),
        ({"JAXMINI_NUM_PROCESSES": "auto"}, True),
        # srun, srun of one task, and a batch script that asked for two but does not use srun.
        ({"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_the_environment_says_whether_there_are_several(
    environment, monkeypatch, variables, several
):
    environment(**variables)
    begun = []
    monkeypatch.setattr(process, "_initialise_distributed", lambda: begun.append(True))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "kept as it is")
    process.start()
    assert bool(begun) is several


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"JAXMINI_NUM_PROCESSES": "2"},
            "JAXMINI_NUM_PROCESSES is set but JAX_COORDINATOR_ADDRESS and JAXMINI_PROCESS_ID is not",
        ),
        (
            {
                "JAXMINI_NUM_PROCESSES": "two",
                "JAXMINI_PROCESS_ID": "0",
                "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1",
            },
            "JAXMINI_NUM_PROCESSES is 'two', expected a number",
        ),
    ],
)
def test_what_is_missing_of_several_processes_is_said(environment, monkeypatch, variables, message):
    environment(**variables)
    monkeypatch.setattr(process.sys, "excepthook", process.sys.excepthook)
    with pytest.raises(ValueError, match=message):
        process.start()


CONVOLVES = """
import jax, jax.numpy as jnp
from jaxmini.losses.loss import read
from jaxmini.model import from_linen
from jaxmini.run import process
process.start()
jax.jit(lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME"))(jnp.ones((2, 4, 5, 5)), jnp.ones((6, 4, 1, 1)))
"""


@pytest.mark.parametrize(("how", "said"), [(None, ""), ("plain", ""), ("explain", "pointwise")])
def test_convolutions_are_explained_where_asked(run, how, said):
    ended = run("-c", CONVOLVES, **({} if how is None else {"JAXMINI_CPU": how}))
    assert ended.code == 0, ended
    lines = [line for line in ended.err.splitlines() if line.startswith("convolution: ")]
    assert len(lines) == bool(said)
    assert said in "".join(lines)


@pytest.mark.parametrize(("how", "installed"), [("fast", True), ("plain", False)])
def test_one_switch_leaves_jax_as_it_is(environment, monkeypatch, how, installed):
    environment(JAXMINI_CPU=how)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "kept as it is")
    done = []
    monkeypatch.setattr(process.cpu, "install", lambda report: done.append("convolutions"))
    monkeypatch.setattr(process.cpu, "keep_freed_memory", lambda: done.append("memory"))
    process.start()
    assert done == (["memory", "convolutions"] if installed else [])
    monkeypatch.setattr(process.jax, "default_backend", lambda: "gpu")
    process.start()
    assert len(done) == 2 * installed


def test_a_switch_that_there_is_not_is_refused(environment):
    environment(JAXMINI_CPU="slow")
    with pytest.raises(ValueError, match="JAXMINI_CPU is 'slow', expected fast, explain or plain"):
        process.start()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("a\nb"), 1, "jaxmini: a\nb\n"),
        (KeyError("no 'x'"), 1, "jaxmini: no 'x'\n"),
        (OSError(28, "No space left on device", "/runs"), 1, "No space left on device: '/runs'"),
        (ConversionError("it crashed"), 1, "jaxmini: it crashed\n"),
        (DivergedError("stage"), 1, "jaxmini: stage\n"),
        (Preempted("stopped"), 75, "jaxmini: stopped\n"),
        (KeyboardInterrupt(), 130, "jaxmini: interrupted; the same command continues the run\n"),
    ],
)
def test_an_error_is_one_message_and_a_code(monkeypatch, capsys, error, code, message):
    monkeypatch.delenv("JAXMINI_TRACEBACK", raising=False)
    assert isinstance(error, process.expected_errors())
    assert process.fail(error) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said

    monkeypatch.setenv("JAXMINI_TRACEBACK", "1")
    assert process.fail(error) == code
    assert type(error).__name__ in capsys.readouterr().err.splitlines()[0]


def own_code_that_misses_a_key() -> None:
    {}["rate"]


def own_code_that_adds_a_word() -> None:
    sum([1, "a"])


def own_code_that_raises() -> None:
    raise KeyError("rate")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (own_code_that_misses_a_key, "KeyError: 'rate' (JAXMINI_TRACEBACK=1 shows where)"),
        (own_code_that_raises, "KeyError: 'rate' (JAXMINI_TRACEBACK=1 shows where)"),
        (
            own_code_that_adds_a_word,
            "unsupported operand type(s) for +: 'int' and 'str' (JAXMINI_TRACEBACK=1 shows where)",
        ),
        (lambda: jnp.men, "module 'jax.numpy' has no attribute 'men' (JAXMINI_TRACEBACK=1 shows"),
        (lambda: jnp.add("a", 1), "(JAXMINI_TRACEBACK=1 shows where)"),
    ],
)
def test_a_slip_in_one_s_own_code_says_how_to_see_where_it_is(monkeypatch, capsys, broken, message):
    monkeypatch.delenv("JAXMINI_TRACEBACK", raising=False)
    with pytest.raises(process.expected_errors()) as caught:
        broken()
    assert process.fail(caught.value) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: read({"teacher": 0}, "student", "kl"), "str reads the signal 'student', which"),
        (lambda: from_linen("net"), "from_linen: got 'net', expected a flax.linen module\n"),
    ],
)
def test_what_jaxmini_refuses_in_its_own_words_needs_no_more(monkeypatch, capsys, refused, message):
    monkeypatch.delenv("JAXMINI_TRACEBACK", raising=False)
    with pytest.raises((KeyError, TypeError)) as caught:
        refused()
    assert process.fail(caught.value) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"jaxmini: {message}")
    assert "JAXMINI_TRACEBACK" not in said
