"""A near miss is offered; a name that is near none has nothing said for it."""

from pathlib import Path

import pytest

from jaxmini.near_miss import did_you_mean, near_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("relu66", "; did you mean 'relu6'?"),
        ("Relu", "; did you mean 'relu'?"),
        ("softplus", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_nearest_is_offered(name: object, said: str):
    assert did_you_mean(name, {"relu": 1, "relu6": 2, "tanh": 3}) == said


def test_the_nearest_path_is_offered_whole_and_judged_by_its_name_alone(tmp_path: Path):
    folder = tmp_path / "with a long name that all paths share"
    folder.mkdir()
    for name in ("teacher.tflite", "student.tflite", "x.py"):
        (folder / name).touch()
    said = f"; did you mean {str(folder / 'teacher.tflite')!r}?"
    assert near_path(folder / "techer.tflite") == said
    assert near_path(folder / "techer.tflite", "*.py") == ""
    assert near_path(folder / "0123456789") == ""
    assert near_path(folder / "nowhere" / "teacher.tflite") == ""
