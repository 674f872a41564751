"""Chain: what stopping does not change, what is refused, and before what."""

import hashlib
import itertools
import json
import random
import re
import signal
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TINY, SHORT, DOOMED = HERE / "tiny_recipe.py", HERE / "short_recipe.py", HERE / "doomed.py"
STEPS = {"pretrain": 40, "teacher": 36, "student": 40, "int8": 40}


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


def test_killed_in_every_stage_and_export_it_ends_as_if_undisturbed(undisturbed, run, tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    print("seed of the moments:", seed)  # shown where this fails
    moments = random.Random(seed)
    command, done = ["run", TINY, "--workdir", tmp_path / "run"], set()
    for stage, total in STEPS.items():
        # Well before the stage's last steps and saves, anywhere in a step or a save.
        step, delay = moments.randint(2 * total // 8, 5 * total // 8), moments.uniform(0, 0.08)
        ended = run(DOOMED, "kill", stage, step, delay, *command)
        assert ended.code == -signal.SIGKILL, ended
        assert finished(ended.out) == done
        assert not (tmp_path / f"run/stages/{stage}/finished.json").exists()
        done = set(itertools.takewhile(lambda name: name != stage, STEPS))  # noqa: B023
        if stage == "teacher":
            flip(newest_arrays(tmp_path / "run/stages/teacher/checkpoints"))
        if stage == "student":
            resumed = ended.out
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
