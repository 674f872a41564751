"""Process: real processes over loopback, how one that fails ends all, and what the environment says."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

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


def test_two_processes_stop_together_go_on_and_train_what_one_does(start, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    command = ("run", SHORT, "--workdir", together)

    told = (DOOMED, "SIGTERM", "teacher", 3, 0, *command)
    first, second = outputs(pair(start, ("-m", "jaxmini", *command), told))
    assert (first[0], second[0]) == (process.PREEMPTED,) * 2, (first, second)
    assert "stage 'teacher' was told to stop and saved step" in first[2]

    # The second process can write no file at all, and need not.
    mute = (DOOMED, "full", "start", 0, 0, *command)
    first, second = outputs(pair(start, ("-m", "jaxmini", *command), mute))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "pretrain: finished by an earlier run\n" in first[1]
    assert "teacher: resuming at step" in first[1]
    assert "pretrain" not in second[1]
    assert (together / "report.html").exists()

    one = start(
        *("-m", "jaxmini", "run", SHORT, "--workdir", alone),
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    ((code, _, err),) = outputs([one])
    assert code == 0, err
    for stage in ("pretrain", "teacher"):
        file = Path("stages", stage, "artifact", "variables.npz")
        with np.load(together / file) as ours, np.load(alone / file) as theirs:
            assert ours.files == theirs.files
            for name in ours.files:
                np.testing.assert_allclose(
                    ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=f"{stage} {name}"
                )


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


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("a\nb"), 1, "jaxmini: a\nb\n"),
        (KeyError("no 'x'"), 1, "jaxmini: no 'x'\n"),
        (OSError(28, "No space left on device", "/runs"), 1, "No space left on device: '/runs'"),
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
