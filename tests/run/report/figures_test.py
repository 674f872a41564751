"""Figures are in the page's colours, readable as text, and hold up with odd figures."""

import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from jaxmini.run.report import figures
from jaxmini.run.report.content import Curve, FileResult, Report, StageResult


def texts(drawing: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(drawing).iter("text")]


def all_figures(report: Report) -> list[str]:
    drawn = [
        figures.learning_curve(report, stage, curve, f"curve-{i}-{j}")
        for i, stage in enumerate(report.stages)
        for j, curve in enumerate(stage.curves)
    ]
    costs = (figures.accuracy_against_size, figures.accuracy_against_latency)
    return [*drawn, *(cost(report, f"cost-{i}") for i, cost in enumerate(costs)),
            figures.confusion(report, "confusion")]  # fmt: skip


@pytest.fixture(scope="module")
def drawings(sample: Report) -> list[str]:
    return all_figures(sample)


def test_every_colour_is_the_pages(drawings: list[str]) -> None:
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b(?!-)", re.sub(r"(href=\"|url\()#", "", drawing))


def test_ids_are_unique_in_a_page(drawings: list[str]) -> None:
    ids = [found for drawing in drawings for found in re.findall(r'\bid="([^"]*)"', drawing)]
    assert len(ids) == len(set(ids))


def test_references_stay_in_their_figure(drawings: list[str]) -> None:
    for drawing in drawings:
        ids = set(re.findall(r'\bid="([^"]*)"', drawing))
        used = re.findall(r'(?:href="|url\()#([^")]*)', drawing)
        assert used
        assert ids.issuperset(used)


def test_a_figure_has_a_name_and_a_description(drawings: list[str]) -> None:
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        title, description = root[0], root[1]
        assert (title.tag, description.tag) == ("title", "desc")
        assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        assert title.text
        assert description.text
        assert root.get("role") == "img"


def test_a_figure_needs_nothing_from_elsewhere(drawings: list[str]) -> None:
    for drawing in drawings:
        assert "://" not in drawing
        assert "font-family" not in drawing
        assert "DejaVu" not in drawing


def test_figures_are_the_same_every_time(sample: Report, drawings: list[str]) -> None:
    assert all_figures(sample) == drawings


def test_the_cost_figure_names_files_and_stages(sample: Report) -> None:
    written = texts(figures.accuracy_against_size(sample, "a"))
    assert {"student-float32", "int8-litert", "teacher", "100 kB"} <= set(written)
    assert "pretrain" not in written


def test_without_evaluated_files_there_is_no_cost_figure() -> None:
    file = FileResult("a.tflite", "int8", "litert", 10)
    evaluated = dataclasses.replace(file, accuracy=0.5)
    assert figures.accuracy_against_size(Report("run", files=(file,)), "a") is None
    assert figures.accuracy_against_latency(Report("run", files=(evaluated,)), "a") is None
    assert figures.accuracy_against_size(Report("run", files=(evaluated,)), "a") is not None


def test_a_confusion_matrix_shows_its_counts(sample: Report) -> None:
    drawing = figures.confusion(sample, "a")
    counts = [str(number) for row in sample.confusion for number in row if number]
    written = texts(drawing)
    assert sorted(written) == sorted([*counts, *sample.labels, *sample.labels, "truth", "answer"])
    assert "14 answers wrong" in drawing


def test_no_confusion_no_figure() -> None:
    assert figures.confusion(Report("run", labels=("a",)), "a") is None


def test_many_classes_are_drawn_without_counts() -> None:
    labels = tuple(f"class {index}" for index in range(40))
    counts = tuple(tuple(9 if i == j else 0 for j in range(40)) for i in range(40))
    written = texts(figures.confusion(Report("run", labels=labels, confusion=counts), "a"))
    assert "9" not in written
    assert "class 38" in written


HOSTILE = ("$\\frac{", "<script>alert(1)</script>", '"&amp;', "_", "数字", "x" * 90)


def test_names_are_text_and_nothing_else() -> None:
    confusion = tuple(tuple(1 for _ in HOSTILE) for _ in HOSTILE)
    stages = tuple(StageResult(name, name, name, accuracy=0.5) for name in HOSTILE)
    files = tuple(FileResult(n, n, n, 10, n, accuracy=0.4, latency_ms=1.0) for n in HOSTILE)
    curves = (Curve(HOSTILE[1], (1, 2), (1.0, 2.0)),)
    stages = (dataclasses.replace(stages[0], curves=curves), *stages[1:])
    report = Report("run", stages=stages, files=files, labels=HOSTILE, confusion=confusion)
    for drawing in all_figures(report):
        assert "<script" not in drawing
        assert ElementTree.fromstring(drawing).tag == "svg"
    assert {"$\\frac{", '"&amp;', "_", "数字"} <= set(texts(figures.confusion(report, "a")))


@pytest.mark.parametrize(
    "values", [(1.0,), (1.0, 1.0), (math.nan, math.nan), (0.5, math.nan, math.inf), (1e-9, 3e8)]
)
def test_odd_curves_are_drawn(values: tuple[float, ...]) -> None:
    curve = Curve("loss", tuple(range(len(values))), values)
    stage = StageResult("a", "supervised", "digits", curves=(curve,))
    drawing = figures.learning_curve(Report("run", stages=(stage,)), stage, curve, "a")
    last = [value for value in values if math.isfinite(value)]
    assert ("the last –" in drawing) == (not last)


def test_the_baselines_curve_is_behind(sample: Report) -> None:
    teacher, labels = sample.stage("teacher"), sample.stage("student-labels")
    with_baseline = figures.learning_curve(sample, teacher, teacher.curves[0], "a")
    without = figures.learning_curve(sample, labels, labels.curves[0], "a")
    assert "grey: the same of scratch" in with_baseline
    assert "grey" not in without
