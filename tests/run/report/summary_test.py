"""The outcome is a sentence of measured figures; the closing table has a row for all that was made."""

import dataclasses

from jaxmini.run.report import summary
from jaxmini.run.report.content import FileResult, Report, StageResult, Verdict

SCRATCH = StageResult("scratch", "supervised", "digits", accuracy=0.9)
STUDENT = StageResult("student", "distill", "digits", accuracy=0.95, against="scratch")


def verdict(of: str, *, passed: bool) -> Verdict:
    return Verdict("max_bytes", of, "10 bytes", "at most 20 bytes", passed)


def test_the_closing_table_of_the_sample(sample: Report) -> None:
    closing = summary.closing(sample)
    names = [row[0] for row in closing.rows]
    assert names == [x.name for x in (*sample.stages, *sample.files)]
    rows = {
        row[0]: dict(zip([c.name for c in closing.columns], row, strict=True))
        for row in closing.rows
    }
    assert rows["student"] == {
        "name": "student",
        "what it is": "distill, digits",
        "labels": "144",
        "params": "71.8 k",
        "size": "–",
        "accuracy": "96.39%",
        "gain, pt": "+6.67",
        "over": "student-labels",
        "time": "1 min 36 s",
        "latency": "–",
    }
    assert rows["int8-jax2tf.tflite"]["size"] == "79.6 kB"
    assert rows["pretrain"]["accuracy"] == "–"


def test_a_gain_needs_both_accuracies() -> None:
    unknown = dataclasses.replace(SCRATCH, accuracy=None)
    (_, row) = summary.closing(Report("run", stages=(unknown, STUDENT))).rows
    assert "+" not in "".join(row)


def test_the_outcome_of_the_sample(sample: Report) -> None:
    assert summary.outcome(sample) == (
        "int8-jax2tf.tflite gets 96.11% of the test pictures right in 79.6 kB: 3.7 times smaller "
        "than student-float32.tflite and 0.28 points below student."
    )


def test_a_file_that_lost_accuracy_says_so() -> None:
    file = FileResult("a.tflite", "int8", "litert", 1000, "student", accuracy=0.94)
    found = summary.outcome(Report("run", stages=(SCRATCH, STUDENT), files=(file,)))
    assert found == (
        "a.tflite gets 94.00% of the test pictures right in 1.00 kB: 1.00 points below student and "
        "4.00 points above scratch."
    )


def test_the_headline_is_the_smallest_file_that_passed_its_gates() -> None:
    file = FileResult("a.tflite", "int8", "litert", 1000, accuracy=0.94)
    failed = dataclasses.replace(file, name="b", bytes=900)
    unknown = dataclasses.replace(file, name="c", bytes=800, accuracy=None)
    gates = (verdict("a.tflite", passed=True), verdict("b", passed=False))
    assert summary.headline(Report("run", files=(file, failed, unknown))) is failed
    assert summary.headline(Report("run", files=(file, failed, unknown), gates=gates)) is file
    assert summary.headline(Report("run", files=(failed, unknown), gates=gates[1:])) is failed
    assert summary.headline(Report("run", files=(unknown,))) is None


def test_a_file_that_has_no_gates_has_not_passed_any() -> None:
    passed = FileResult("a.tflite", "int8", "litert", 1000, accuracy=0.94)
    ungated = dataclasses.replace(passed, name="b.onnx", bytes=900)
    failed = dataclasses.replace(passed, name="c.tflite", bytes=800)
    good, bad = verdict("a.tflite", passed=True), verdict("c.tflite", passed=False)
    for files, gates, expected in (
        ((passed, ungated, failed), (good, bad), passed),
        ((ungated, failed), (bad,), failed),
        ((ungated, passed), (), ungated),
        ((passed, ungated), (good, verdict("a.tflite", passed=False)), passed),
    ):
        assert summary.headline(Report("run", files=files, gates=gates)) is expected


def test_the_outcome_without_files() -> None:
    assert summary.outcome(Report("run", stages=(SCRATCH, STUDENT))) == (
        "student gets 95.00% of the test pictures right: 5.00 points above scratch."
    )


def test_nothing_is_claimed_of_a_run_that_was_not_evaluated() -> None:
    stage = StageResult("pretrain", "contrastive", "digits")
    file = FileResult("a.tflite", "int8", "litert", 10)
    found = summary.outcome(Report("run", stages=(stage,), files=(file,)))
    assert found == "No network and no file of this run was evaluated."


def test_the_verdict_names_what_failed(sample: Report) -> None:
    assert summary.verdict(sample) == (
        "1 of 4 gates failed: max_latency_ratio of int8-litert.tflite"
    )


def test_the_verdict_of_gates_that_passed() -> None:
    files = (FileResult("a.tflite", "int8", "litert", 10),)
    gates = (verdict("a.tflite", passed=True),) * 2
    assert summary.verdict(Report("run", files=files, gates=gates)) == "All 2 gates passed"
    assert summary.verdict(Report("run", files=files, gates=gates[1:])) == "The one gate passed"
    assert summary.verdict(Report("run")) == ""


def test_the_gates_are_a_row_each(sample: Report) -> None:
    table = summary.gates(sample)
    assert [column.name for column in table.columns] == [
        "gate",
        "of",
        "measured",
        "limit",
        "verdict",
    ]
    assert [row[-1] for row in table.rows] == ["PASS", "PASS", "PASS", "FAIL"]
    assert table.rows[0] == (
        "max_bytes",
        "int8-jax2tf.tflite",
        "79,616 bytes",
        "at most 90,000 bytes",
        "PASS",
    )


def test_the_most_frequent_confusions_come_first(sample: Report) -> None:
    found = summary.confusions(sample, most=3)
    assert found == (("8", "1", 4), ("3", "5", 2), ("9", "3", 2))


def test_operations_are_ordered_by_number(sample: Report) -> None:
    names = [name for name, _ in summary.operations(sample.files[0]).rows]
    assert names == ["CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "FULLY_CONNECTED", "MEAN"]
