"""Workdir: one run at a time, one recipe for good, nothing of anybody else's touched."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmini.run.workdir import Workdir, WorkdirError

ROOT = Path(__file__).parents[2]
RECIPE = {"stages": [{"name": "student", "epochs": 2}]}


def test_a_new_workdir_is_made_and_can_be_taken_up_again(tmp_path):
    for _ in range(2):
        with Workdir.open(tmp_path / "a" / "b", RECIPE) as workdir:
            assert workdir.path == tmp_path / "a" / "b"
            assert (workdir.path / "recipe.json").exists()


def test_a_finished_stage_is_remembered(tmp_path):
    result = {"accuracy": 0.91, "steps": 12, "note": None}
    with Workdir.open(tmp_path, RECIPE) as workdir:
        assert workdir.finished("student") is None
        workdir.mark_finished("student", result)
        assert workdir.stage_folder("student") == tmp_path / "stages" / "student"
    with Workdir.open(tmp_path, RECIPE) as workdir:
        assert workdir.finished("student") == result
        assert workdir.finished("teacher") is None


def test_what_json_would_change_is_not_remembered(tmp_path):
    with Workdir.open(tmp_path, RECIPE) as workdir:
        with pytest.raises(TypeError, match="the result of stage 'student': JSON would change"):
            workdir.mark_finished("student", {"shape": (1, 2)})
        assert workdir.finished("student") is None
    with pytest.raises(TypeError, match="the record of the recipe: .*plain dicts"):
        Workdir.open(tmp_path / "other", {"model": object()})


@pytest.mark.parametrize("name", ["../student", "", ".hidden", "a/b", "a b"])
def test_a_stage_name_that_names_no_folder_is_refused(tmp_path, name):
    with (
        Workdir.open(tmp_path, RECIPE) as workdir,
        pytest.raises(ValueError, match="it names a folder"),
    ):
        workdir.stage_folder(name)


def test_a_tampered_result_is_refused(tmp_path):
    with Workdir.open(tmp_path, RECIPE) as workdir:
        workdir.mark_finished("student", {"accuracy": 0.91})
        file = workdir.stage_folder("student") / "finished.json"
        for text in (file.read_text().replace("0.91", "0.99"), file.read_text()[:-9], "[]", ""):
            file.write_text(text)
            with pytest.raises(WorkdirError, match=r"finished.json was changed .*; remove it"):
                workdir.finished("student")


def test_a_result_of_another_stage_is_refused(tmp_path):
    with Workdir.open(tmp_path, RECIPE) as workdir:
        workdir.mark_finished("teacher", {})
        moved = workdir.stage_folder("student") / "finished.json"
        (workdir.stage_folder("teacher") / "finished.json").rename(moved)
        with pytest.raises(WorkdirError, match="is of stage 'teacher', not 'student'"):
            workdir.finished("student")


def test_another_recipe_is_refused_with_what_differs(tmp_path):
    Workdir.open(tmp_path, RECIPE).close()
    other = {"stages": [{"name": "student", "epochs": 3}]}
    with pytest.raises(WorkdirError) as error:
        Workdir.open(tmp_path, other)
    assert str(error.value) == (
        f"workdir {tmp_path} was begun with another recipe. It and the one given differ in\n"
        "  stages.student.epochs: 2 -> 3\n"
        "Give another workdir, or start over in this one with --fresh"
    )
    Workdir.open(tmp_path, RECIPE).close()  # the refusal let go of the lock


def test_many_differences_are_counted(tmp_path):
    Workdir.open(tmp_path, {f"field_{i:02d}": i for i in range(20)}).close()
    with pytest.raises(WorkdirError, match=r"field_11: 11 -> 12\n  and 8 more"):
        Workdir.open(tmp_path, {f"field_{i:02d}": i + 1 for i in range(20)})


def test_a_tampered_recipe_is_refused(tmp_path):
    Workdir.open(tmp_path, RECIPE).close()
    file = tmp_path / "recipe.json"
    file.write_text(file.read_text().replace("2", "3", 1))
    with pytest.raises(WorkdirError, match=r"recipe.json was changed since .*--fresh"):
        Workdir.open(tmp_path, RECIPE)


def test_fresh_starts_over(tmp_path):
    with Workdir.open(tmp_path, RECIPE) as workdir:
        workdir.mark_finished("student", {})
    (tmp_path / "report.html").write_text("old")
    other = {"stages": [{"name": "student", "epochs": 3}]}
    with Workdir.open(tmp_path, other, fresh=True) as workdir:
        assert workdir.finished("student") is None
    assert not (tmp_path / "report.html").exists()
    Workdir.open(tmp_path, other).close()


def test_starting_over_can_be_killed_at_any_rename(tmp_path, monkeypatch):
    rename = Path.rename
    for number in range(3):
        path = tmp_path / str(number)
        with Workdir.open(path, RECIPE) as workdir:
            workdir.mark_finished("student", {})
        (path / "metrics.jsonl").write_text("{}\n")
        done = []

        def stop(source, target, done=done, number=number):
            if len(done) == number:
                raise KeyboardInterrupt
            done.append(source)
            return rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", stop)
            with pytest.raises(KeyboardInterrupt):
                Workdir.open(path, {"other": 1}, fresh=True)
        Workdir.open(path, RECIPE).close()  # still a workdir, still of its recipe
        Workdir.open(path, {"other": 1}, fresh=True).close()
        assert {entry.name for entry in path.iterdir()} == {".lock", "recipe.json"}


def test_other_peoples_files_are_left_alone(tmp_path):
    for name in ("a.txt", "b", "c", "d", "e"):
        (tmp_path / name).write_text("mine")
    for fresh in (False, True):
        with pytest.raises(
            WorkdirError, match=r"not a workdir .*a\.txt, b, c, d and 1 more and no"
        ):
            Workdir.open(tmp_path, RECIPE, fresh=fresh)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WorkdirError, match="is a file; give the path of a folder"):
        Workdir.open(tmp_path / "file", RECIPE)


def test_a_folder_that_may_not_be_written_is_explained(read_only):
    for folder in (read_only, read_only / "new"):
        with pytest.raises(WorkdirError, match=r"cannot be used: .*denied.*permissions"):
            Workdir.open(folder, RECIPE)


HOLDER = """
import sys
from pathlib import Path
from jaxmini.run.workdir import Workdir
workdir = Workdir.open(Path(sys.argv[1]), {"recipe": 1})
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        for fresh in (False, True):
            message = rf"is in use by process {holder.pid} on \S+ since \d{{4}}-.*stop it"
            with pytest.raises(WorkdirError, match=message):
                Workdir.open(tmp_path, {"recipe": 1}, fresh=fresh)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        Workdir.open(tmp_path, {"recipe": 1}).close()


def test_two_in_one_process_are_refused_too(tmp_path):
    with (
        Workdir.open(tmp_path, RECIPE),
        pytest.raises(WorkdirError, match=f"in use by process {os.getpid()}"),
    ):
        Workdir.open(tmp_path, RECIPE)
    Workdir.open(tmp_path, RECIPE).close()
