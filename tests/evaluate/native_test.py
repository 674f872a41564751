import subprocess
import sys
from pathlib import Path

import pytest

from jaxmini.evaluate import native
from tests.export.single import single

CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANGS = "import time; time.sleep(60)"


@pytest.fixture
def runs_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Let the trial's process run other code."""

    def put(code: str) -> None:
        script = tmp_path / "trial.py"
        script.write_text(code)
        monkeypatch.setattr(native, "__file__", str(script))

    return put


def test_a_crash_of_the_trial_is_a_message(runs_instead):
    runs_instead(CRASHES)
    with pytest.raises(
        ValueError, match=r"a\.tflite: the interpreter crashes .*\(SIGSEGV\); it is d"
    ):
        native.require_runs(b"", "a.tflite", "xnnpack")


def test_a_trial_that_does_not_end_is_a_message(runs_instead, monkeypatch: pytest.MonkeyPatch):
    runs_instead(HANGS)
    monkeypatch.setattr(native, "TRIAL_SECONDS", 1)
    with pytest.raises(ValueError, match="did not finish one run in 1 s"):
        native.require_runs(b"", "a.tflite", "xnnpack")


def test_what_the_trial_says_is_passed_on():
    with pytest.raises(ValueError, match="a.tflite: the interpreter refuses the file: "):
        native.require_runs(b"not a file", "a.tflite", "reference")


def test_the_trial_imports_the_interpreter_alone():
    names = "import sys, runpy; runpy.run_path(sys.argv[1]); print('jaxmini' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-P", "-c", names, native.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "False"


def test_what_has_run_is_not_tried_again(runs_instead):
    content = single("ABS", grid=(0.0213, 7))  # a file of no other test
    native.require_runs(content, "a.tflite", "optimized")
    runs_instead(CRASHES)
    native.require_runs(bytes(bytearray(content)), "b.tflite", "optimized", threads=2)
    for other in ({"content": content + b"\0"}, {"kernels": "reference"}, {"keep_all": True}):
        with pytest.raises(ValueError, match="b.tflite: the interpreter crashes"):
            native.require_runs(
                **({"content": content, "where": "b.tflite", "kernels": "optimized"} | other)
            )


def test_a_failed_trial_is_not_remembered(runs_instead, monkeypatch: pytest.MonkeyPatch):
    content, script = single("ABS", grid=(0.0217, 6)), native.__file__
    runs_instead(CRASHES)
    with pytest.raises(ValueError, match="crashes"):
        native.require_runs(content, "a.tflite", "optimized")
    monkeypatch.setattr(native, "__file__", script)
    native.require_runs(content, "a.tflite", "optimized")
