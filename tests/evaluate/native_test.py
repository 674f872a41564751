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
    """Let the processes of trials run other code."""
    lasting = native._Lasting()

    def put(code: str) -> None:
        lasting.close()
        script = tmp_path / "trial.py"
        script.write_text(code)
        monkeypatch.setattr(native, "__file__", str(script))
        monkeypatch.setattr(native, "_LASTING", lasting)

    yield put
    lasting.close()


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


def test_one_process_tries_all_files_and_another_takes_its_place(monkeypatch: pytest.MonkeyPatch):
    """What fails is believed of a process that has seen no other file."""
    lasting = native._Lasting()
    monkeypatch.setattr(native, "_LASTING", lasting)

    def run(grid: tuple[float, int]) -> int:
        native.require_runs(single("ABS", grid=grid), "a.tflite", "reference")
        return lasting._child.pid

    first = run((0.0211, 1))
    assert run((0.0212, 1)) == first
    with pytest.raises(ValueError, match="refuses the file"):
        native.require_runs(b"not a file", "a.tflite", "reference")
    assert run((0.0213, 1)) == first
    lasting._child.kill()
    lasting._child.wait()
    assert run((0.0214, 1)) != first
    lasting.close()


def test_a_process_that_an_earlier_file_spoilt_condemns_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    spoilt = tmp_path / "spoilt.py"
    spoilt.write_text(
        f"import runpy, sys\nif not sys.argv[1:]: {CRASHES}\n"
        f"runpy.run_path({native.__file__!r}, run_name='__main__')"
    )
    lasting = native._Lasting()
    monkeypatch.setattr(native, "__file__", str(spoilt))
    monkeypatch.setattr(native, "_LASTING", lasting)
    native.require_runs(single("ABS", grid=(0.0219, 2)), "a.tflite", "optimized")
