"""A report whose parts do not fit one another is refused where it is made."""

import pytest

from jaxmini.run.report.content import (
    Curve,
    FileResult,
    Link,
    Mistake,
    Report,
    StageResult,
    Verdict,
)
from jaxmini.run.report.pictures import SIGNATURE

STAGE = StageResult("teacher", "supervised", "digits")


def test_a_curve_has_a_value_a_step() -> None:
    with pytest.raises(ValueError, match="curve 'loss' has 2 steps and 1 values"):
        Curve("loss", (1, 2), (0.5,))


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="two stages of a report are called 'teacher'"):
        Report("run", stages=(STAGE, STAGE))


def test_a_baseline_is_a_stage() -> None:
    student = StageResult("student", "distill", "digits", against="techer")
    with pytest.raises(KeyError, match="did you mean 'teacher'"):
        Report("run", stages=(STAGE, student))


def test_a_file_is_made_from_a_stage() -> None:
    with pytest.raises(KeyError, match=r"file 'a.tflite' is made from 'student'"):
        Report(
            "run", stages=(STAGE,), files=(FileResult("a.tflite", "int8", "litert", 8, "student"),)
        )


def test_a_link_is_made_from_links() -> None:
    with pytest.raises(KeyError, match="link 'file' is made from 'net'"):
        Report("run", provenance=(Link("file", "00", ("net",)),))


@pytest.mark.parametrize("confusion", [((1, 0),), ((1,), (0,)), ((1, 0), (0, 1, 0))])
def test_a_confusion_matrix_is_square_in_the_labels(confusion: tuple) -> None:
    with pytest.raises(ValueError, match="must be 2 by 2"):
        Report("run", labels=("a", "b"), confusion=confusion)


def test_a_mistake_has_known_labels() -> None:
    with pytest.raises(ValueError, match="mistake 7: truth 0 and predicted 2"):
        Report("run", labels=("a", "b"), mistakes=(Mistake(7, 0, 2, 0.5, SIGNATURE),))


def test_a_gate_is_of_a_stage_or_a_file() -> None:
    verdict = Verdict("min_accuracy", "techer", "95%", "at least 90%", passed=True)
    with pytest.raises(KeyError, match="gate 'min_accuracy' is of 'techer'.*mean 'teacher'"):
        Report("run", stages=(STAGE,), gates=(verdict,))


def test_a_stage_and_a_file_are_found_by_name() -> None:
    file = FileResult("a.tflite", "int8", "litert", 8)
    report = Report("run", stages=(STAGE,), files=(file,))
    assert report.file("a.tflite") is file
    assert report.file("b.tflite") is None
    assert report.stage("teacher") is STAGE
    assert report.stage(None) is None
