"""Gates: each passes and fails by the measured figures, and says what it cannot be."""

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini import data, models
from jaxmini.compress import quantize
from jaxmini.export import Layout
from jaxmini.record import describe, rebuild
from jaxmini.run import gates
from jaxmini.run.formats import StableHLO
from jaxmini.run.recording import record_of
from jaxmini.run.report.content import FileResult, Report, StageResult, Verdict
from jaxmini.run.stage import (
    Contrastive,
    Export,
    Gate,
    Recipe,
    Supervised,
)

DIGITS = data.digits()
NET = models.small_resnet(10, widths=(8,))
STUDENT = Supervised(name="student", data=DIGITS, model=NET)
INT8 = Supervised(name="int8", data=DIGITS, start=STUDENT, quantize=quantize.int8())
PRETRAIN = Contrastive(name="pretrain", data=DIGITS, model=NET)
FILE, FLOAT = Export(INT8, "int8", name="small"), Export(STUDENT, "float32", name="float")
EXPORTS = (FILE, FLOAT)

REPORT = Report(
    "made up",
    stages=(
        StageResult("student", "supervised", "digits", accuracy=0.9243),
        StageResult("int8", "quantize + supervised", "digits", accuracy=0.9201),
        StageResult("pretrain", "contrastive", "digits"),
    ),
    files=(
        FileResult(
            "small.tflite", "int8", "litert", 71_872, "int8", 0.9213, 0.99996, 0.139,
            ops={"CONV_2D": 8, "ADD": 3, "MEAN": 1}, float_ops={}, micro=(), arena_bytes=55_776,
        ),
        FileResult(
            "float.tflite", "float32", "litert", 229_296, "student", 0.9343, 1.0, 0.278,
            ops={"CONV_2D": 8, "ADD": 3, "MEAN": 1}, float_ops={"CONV_2D": 8, "ADD": 3},
            micro=("GELU is not there", "SQRT neither"),
        ),
    ),
)  # fmt: skip

ALLOWED = ("CONV_2D", "ADD", "MEAN")
# Gate, measured, limit, passed.
JUDGED = [
    (gates.max_bytes(FILE, 71_872), "71,872 bytes", "at most 71,872 bytes", True),
    (gates.max_bytes(FILE, 71_871), "71,872 bytes", "at most 71,871 bytes", False),
    (
        gates.max_accuracy_drop(FILE, STUDENT, 0.3),
        "0.30 points below student",
        "at most 0.3 points below student",
        True,  # though 100 * (0.9243 - 0.9213) is more than 0.3 in floating point
    ),
    (
        gates.max_accuracy_drop(FILE, below=STUDENT, points=0.299),
        "0.30 points below student",
        "at most 0.299 points below student",
        False,
    ),
    (
        gates.max_accuracy_drop(FLOAT, STUDENT, 0),
        "1.00 points above student",
        "at most 0 points below student",
        True,
    ),
    (gates.min_accuracy(FILE, 0.9213), "92.13%", "at least 92.13%", True),
    (gates.min_accuracy(FILE, 0.92131), "92.13%", "at least 92.131%", False),
    (gates.min_accuracy(INT8, 0.92), "92.01%", "at least 92%", True),
    (gates.min_accuracy(INT8, 0.921), "92.01%", "at least 92.1%", False),
    (gates.min_agreement(FILE, 0.995), ">99.99%", "at least 99.5%", True),
    (gates.min_agreement(FILE, 1), "99.996%", "at least 100%", False),
    (gates.min_agreement(FLOAT, 1.0), "100.00%", "at least 100%", True),
    (gates.only_ops(FILE, ALLOWED), "no others", "only CONV_2D, ADD, MEAN", True),
    (gates.only_ops(FILE, ("CONV_2D",)), "3 ADD, 1 MEAN besides", "only CONV_2D", False),
    (gates.only_ops(FILE, ()), "8 CONV_2D, 3 ADD, 1 MEAN besides", "no operations", False),
    (gates.all_integer(FILE), "no float operation", "no float operation", True),
    (gates.all_integer(FLOAT), "float: 8 CONV_2D, 3 ADD", "no float operation", False),
    (
        gates.max_latency_ratio(FILE, FLOAT, 0.5),
        "0.50 times float.tflite",
        "at most 0.5 times float.tflite",
        True,
    ),
    (
        gates.max_latency_ratio(FLOAT, FILE, 1.99),
        "2.00 times small.tflite",
        "at most 1.99 times small.tflite",
        False,
    ),
    (gates.micro(FILE), "runs in TFLite-Micro", "runs in TFLite-Micro", True),
    (gates.micro(FLOAT), "GELU is not there; SQRT neither", "runs in TFLite-Micro", False),
    (
        gates.max_arena(FILE, 55_776),
        "an arena of 55,776 bytes",
        "an arena of at most 55,776 bytes",
        True,
    ),
    (
        gates.max_arena(FILE, 55_775),
        "an arena of 55,776 bytes",
        "an arena of at most 55,775 bytes",
        False,
    ),
]
KINDS = {kind for kind in vars(gates).values() if isinstance(kind, type)} & {*Gate.__subclasses__()}


def case(judged: tuple) -> str:
    return f"{type(judged[0]).__name__}-{judged[-1]}"


@pytest.mark.parametrize("judged", JUDGED, ids=case)
def test_a_gate_is_judged_by_what_was_measured(judged):
    gate, measured, limit, passed = judged
    verdict = gate.judge(REPORT)
    (subject, *_) = gate.uses
    of = subject.name if isinstance(subject, Supervised) else subject.file_name
    assert verdict == Verdict(type(gate).__name__, of, measured, limit, passed)


def test_every_gate_is_seen_to_pass_and_to_fail():
    assert len(KINDS) == 9
    assert {(type(gate), passed) for gate, _, _, passed in JUDGED} == {
        (kind, passed) for kind in KINDS for passed in (True, False)
    }


def test_a_file_that_does_not_run_has_no_arena():
    assert not gates.max_arena(FLOAT, 10**9).judge(REPORT).passed


@pytest.mark.parametrize("kind", [gates.micro, lambda file: gates.max_arena(file, 9)])
def test_a_file_of_another_format_is_none_for_a_microcontroller(kind):
    with pytest.raises(
        ValueError, match=r"TFLite-Micro runs \.tflite files, and .*\.stablehlo is none"
    ):
        kind(StableHLO(STUDENT))
    with pytest.raises(ValueError, match="files of one signature, and the layout of .* adds one"):
        kind(Export(STUDENT, "float32", layout=Layout(embedding="Dense_0")))


def test_only_two_kinds_ask_for_a_run_in_tflite_micro():
    asking = {type(gate) for gate, *_ in JUDGED if gates.asks_for_micro((gate,), FILE)}
    assert asking == {gates.micro, gates.max_arena}
    assert not gates.asks_for_micro((gates.micro(FILE), gates.max_bytes(FLOAT, 9)), FLOAT)


def test_what_was_not_measured_does_not_pass():
    nothing = Report(
        "not measured",
        stages=tuple(dataclasses.replace(stage, accuracy=None) for stage in REPORT.stages),
        files=tuple(FileResult(file.name, file.variant, "", 1) for file in REPORT.files),
    )
    for gate in (
        gates.max_accuracy_drop(FILE, STUDENT, 100),
        gates.min_accuracy(STUDENT, 0),
        gates.min_accuracy(FILE, 0),
        gates.min_agreement(FILE, 0),
        gates.all_integer(FILE),
        gates.max_latency_ratio(FILE, FLOAT, 1e9),
        gates.micro(FILE),
        gates.max_arena(FILE, 10**9),
    ):
        verdict = gate.judge(nothing)
        assert verdict.measured == "not measured"
        assert not verdict.passed


def test_a_figure_that_is_not_a_number_does_not_pass():
    (file, *others) = REPORT.files
    broken = dataclasses.replace(file, latency_ms=math.nan)
    report = dataclasses.replace(REPORT, files=(broken, *others))
    assert not gates.max_latency_ratio(FILE, FLOAT, 1e9).judge(report).passed


@given(right=st.integers(0, 9_999), least=st.integers(0, 10_000))
def test_what_is_shown_is_on_the_side_of_the_limit_that_was_judged(right, least):
    (file, *others) = REPORT.files
    file = dataclasses.replace(file, agreement=right / 9_999)
    report = dataclasses.replace(REPORT, files=(file, *others))
    verdict = gates.min_agreement(FILE, least / 10_000).judge(report)
    assert verdict.passed == (right / 9_999 >= least / 10_000)
    measured, limit = (
        float(re.search(r"[\d.]+", text)[0]) for text in (verdict.measured, verdict.limit)
    )
    assert verdict.passed == (measured >= limit) or verdict.measured.startswith(">")


@given(lost=st.integers(0, 10_000))
def test_a_drop_of_just_the_limit_passes(lost):
    (file, *others) = REPORT.files
    (student, *stages) = REPORT.stages
    file = dataclasses.replace(file, accuracy=(10_000 - lost) / 10_000)
    student = dataclasses.replace(student, accuracy=1.0)
    report = dataclasses.replace(REPORT, stages=(student, *stages), files=(file, *others))
    assert gates.max_accuracy_drop(FILE, STUDENT, lost / 100).judge(report).passed
    if lost:
        assert not gates.max_accuracy_drop(FILE, STUDENT, (lost - 1) / 100).judge(report).passed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gates.max_bytes(FILE, 0), "max_bytes: limit is 0, expected 1 or more"),
        (lambda: gates.max_bytes(FILE, -3), "max_bytes: limit is -3, expected 1 or more"),
        (lambda: gates.max_bytes(FILE, math.nan), "limit is nan, expected 1 or more"),
        (
            lambda: gates.max_accuracy_drop(FILE, STUDENT, -0.1),
            r"max_accuracy_drop: points is -0.1, expected in 0\.\.100",
        ),
        (lambda: gates.max_accuracy_drop(FILE, STUDENT, 101), r"expected in 0\.\.100"),
        (
            lambda: gates.max_accuracy_drop(FILE, PRETRAIN, 1),
            "max_accuracy_drop of stage 'pretrain': its outputs are embeddings",
        ),
        (lambda: gates.min_accuracy(FILE, 1.5), r"min_accuracy: accuracy is 1.5.* in 0\.\.1"),
        (lambda: gates.min_accuracy(STUDENT, -1), r"accuracy is -1, expected in 0\.\.1"),
        (lambda: gates.min_accuracy(PRETRAIN, 0.5), "its outputs are embeddings"),
        (lambda: gates.min_agreement(FILE, 99.5), r"fraction is 99.5, expected in 0\.\.1"),
        (lambda: gates.min_agreement(FILE, -0.5), r"fraction is -0.5, expected in 0\.\.1"),
        (
            lambda: gates.only_ops(FILE, ("CONV_2D", "conv2d")),
            "TFLite has no operation 'conv2d'. Did you mean 'CONV_2D'",
        ),
        (lambda: gates.only_ops(FILE, ("qqq",)), "no operation 'qqq'. They are written as in"),
        (lambda: gates.max_arena(FILE, 0), "max_arena: limit is 0, expected 1 or more"),
        (lambda: gates.max_latency_ratio(FILE, FLOAT, -1), "ratio is -1, expected 0 or more"),
        (lambda: gates.max_latency_ratio(FILE, FLOAT, 0), "ratio is 0; no file takes no time"),
        (lambda: gates.max_latency_ratio(FILE, FLOAT, math.inf), "ratio is inf"),
        (lambda: gates.max_latency_ratio(FILE, FILE, 1), r"both small\.tflite; give two files"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gates.max_bytes("small.tflite", 9), "export is 'small.tflite', expected Export"),
        (lambda: gates.max_bytes(INT8, 9), "export is Supervised, expected Export, the value"),
        (lambda: gates.max_bytes(FILE, "9"), "limit is '9', expected a number"),
        (lambda: gates.max_bytes(FILE, True), "limit is True, expected a number"),
        (lambda: gates.max_accuracy_drop(FILE, FLOAT, 1), "below is Export, expected Stage"),
        (lambda: gates.max_accuracy_drop(INT8, STUDENT, 1), "export is Supervised"),
        (lambda: gates.min_accuracy("student", 0.5), r"of is 'student', expected Stage \| Export"),
        (lambda: gates.min_agreement(INT8, 0.5), "min_agreement: export is Supervised"),
        (lambda: gates.only_ops(INT8, ()), "only_ops: export is Supervised"),
        (lambda: gates.only_ops(FILE, "ADD"), "only_ops: allowed is 'ADD', expected tuple"),
        (lambda: gates.only_ops(FILE, (3,)), "only_ops: an allowed operation is 3, expected its"),
        (lambda: gates.all_integer(INT8), "all_integer: export is Supervised"),
        (lambda: gates.micro(INT8), "micro: export is Supervised, expected Export"),
        (lambda: gates.max_arena("small.tflite", 1), "max_arena: export is 'small.tflite'"),
        (lambda: gates.max_arena(FILE, None), "limit is None, expected a number"),
        (lambda: gates.max_latency_ratio(FILE, INT8, 1), "other is Supervised, expected Export"),
    ],
)
def test_a_gate_of_something_else_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_recipe_s_gates_speak_of_its_own_stages_and_exports():
    stages = (STUDENT, INT8)
    assert Recipe(stages, EXPORTS, gates=(gates.max_bytes(FILE, 9),)).gates[0].uses == (FILE,)
    with pytest.raises(
        ValueError,
        match=r"max_bytes uses export 'float\.tflite', which is not among.*: small\.tflite$",
    ):
        Recipe(stages, (FILE,), gates=(gates.max_bytes(FLOAT, 9),))
    with pytest.raises(ValueError, match=r"uses export 'small\.tflite'.* one of: there are none"):
        Recipe(stages, gates=(gates.all_integer(FILE),))
    with pytest.raises(ValueError, match=r"max_latency_ratio uses export 'float\.tflite'"):
        Recipe(stages, (FILE,), gates=(gates.max_latency_ratio(FILE, FLOAT, 1),))
    other = dataclasses.replace(FILE, backend="litert")
    with pytest.raises(ValueError, match=r"'small\.tflite', which differs from the recipe's"):
        Recipe(stages, (FILE,), gates=(gates.max_bytes(other, 9),))
    with pytest.raises(
        ValueError, match="gate min_accuracy uses stage 'int8', which is not among.*: student$"
    ):
        Recipe((STUDENT,), gates=(gates.min_accuracy(INT8, 0.5),))
    with pytest.raises(TypeError, match="a gate of the recipe is 'small'; gates are made by"):
        Recipe(stages, EXPORTS, gates=("small",))


@pytest.mark.parametrize("judged", JUDGED, ids=case)
def test_a_gate_can_be_recorded_and_built_again(judged):
    assert rebuild(describe(judged[0])) == judged[0]


def test_a_recipe_s_record_names_what_its_gates_speak_of():
    held = (
        gates.max_accuracy_drop(FILE, STUDENT, 0.3),
        gates.only_ops(FILE, ("ADD",)),
        gates.max_latency_ratio(FILE, FLOAT, 0.9),
    )
    small, kind = {"export": "small.tflite"}, "jaxmini.run.gates:{}".format
    assert record_of(Recipe((STUDENT, INT8), EXPORTS, gates=held))["gates"] == [
        {
            "kind": kind("max_accuracy_drop"),
            "export": small,
            "below": {"stage": "student"},
            "points": 0.3,
        },
        {"kind": kind("only_ops"), "export": small, "allowed": ["ADD"]},
        {
            "kind": kind("max_latency_ratio"),
            "export": small,
            "other": {"export": "float.tflite"},
            "ratio": 0.9,
        },
    ]
