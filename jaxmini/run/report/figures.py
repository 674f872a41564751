"""Figures: learning curves, what accuracy costs, and the confusion matrix, as SVG elements."""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jaxmini.run.report import quantity, svg
from jaxmini.run.report.axes import (
    LABEL_GAP,
    LETTER,
    framed,
    make_logarithmic,
    name_points,
    rounded,
    shorten,
    spread,
)
from jaxmini.run.report.content import Curve, FileResult, Report, StageResult
from jaxmini.run.report.svg import ACCENT, INK, MUTED

CURVE_SIZE = (330, 190)
COST_SIZE = (410, 320)
CONFUSION_SIZE = 440
MANY_CLASSES = 20  # above, a confusion matrix has no room for its counts
LONGEST_LABEL = 14
LONGEST_NAME = 26
STRONGEST = 0.5  # of a cell: in light and in dark, a count can still be read on it


def learning_curve(report: Report, stage: StageResult, curve: Curve, name: str) -> str:
    """One metric of a stage over its steps, the same metric of its baseline behind it."""
    baseline = report.stage(stage.against)
    behind = _curve_of(baseline, curve.metric)
    last = next((v for v in reversed(curve.values) if math.isfinite(v)), None)
    description = f"{len(curve.values)} values, the last {quantity.significant(last)}"
    if baseline is not None and behind is not None:
        description += f"; grey: the same of {baseline.name}"

    def paint(figure: Figure) -> None:
        axes = framed(figure, CURVE_SIZE, left=48, right=52, bottom=30, top=10)
        if behind is not None:
            axes.plot(behind.steps, behind.values, color=MUTED, linewidth=1.0, alpha=0.6)
        axes.plot(curve.steps, curve.values, color=ACCENT, linewidth=1.75)
        _mark_last(axes, curve)
        axes.margins(x=0.0, y=0.08)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _steps(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))

    return svg.draw(paint, CURVE_SIZE, name, f"{curve.metric} of {stage.name}", description)


def accuracy_against_size(report: Report, name: str) -> str | None:
    """Every evaluated file by accuracy and bytes, with the networks' accuracies as lines."""
    return _cost(report, name, "size", _size, lambda value: quantity.short(value, "B"))


def accuracy_against_latency(report: Report, name: str) -> str | None:
    """Every evaluated file by accuracy and latency, with the networks' accuracies as lines."""
    return _cost(report, name, "latency", _latency, quantity.milliseconds)


def confusion(report: Report, name: str) -> str | None:
    """Counts of every pair of truth and answer: right answers in grey, wrong ones in colour."""
    if not report.confusion:
        return None
    classes = len(report.labels)
    wrong = sum(map(sum, report.confusion)) - sum(report.confusion[i][i] for i in range(classes))
    description = f"rows are the truth, columns the answer; {quantity.count(wrong)} answers wrong"

    def paint(figure: Figure) -> None:
        labels = [shorten(label, LONGEST_LABEL) for label in report.labels]
        room = 34 + LETTER * max(map(len, labels)) if classes <= MANY_CLASSES else 60
        size = (CONFUSION_SIZE, CONFUSION_SIZE)
        axes = framed(figure, size, left=room, right=8, bottom=room, top=8)
        _paint_cells(axes, report.confusion)
        axes.set(xlim=(0, classes), ylim=(classes, 0), xlabel="answer", ylabel="truth")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        _label_classes(axes, labels)

    size = (CONFUSION_SIZE, CONFUSION_SIZE)
    return svg.draw(paint, size, name, "Confusion matrix", description)


def _cost(
    report: Report,
    name: str,
    what: str,
    measure: Callable[[FileResult], float | None],
    write: Callable[[float], str],
) -> str | None:
    files = [f for f in report.files if f.accuracy is not None and (measure(f) or 0) > 0]
    if not files:
        return None
    stages = [stage for stage in report.stages if stage.accuracy is not None]
    says = [f"{f.name}: {quantity.percent(f.accuracy)}, {write(measure(f))}" for f in files]

    def paint(figure: Figure) -> None:
        axes = framed(figure, COST_SIZE, left=48, right=98, bottom=46, top=14)
        low, high = _accuracy_limits([x.accuracy for x in (*files, *stages)])
        axes.set_ylim(low, high)
        make_logarithmic(axes.xaxis, [measure(file) for file in files], write)
        axes.set_xlabel(f"{what}, logarithmic")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
        _paint_stages(axes, stages)
        _paint_files(axes, files, [measure(file) for file in files])

    return svg.draw(paint, COST_SIZE, name, f"Accuracy against {what}", "; ".join(says))


def _curve_of(stage: StageResult | None, metric: str) -> Curve | None:
    curves = () if stage is None else stage.curves
    return next((curve for curve in curves if curve.metric == metric and curve.values), None)


def _mark_last(axes: Axes, curve: Curve) -> None:
    finite = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if math.isfinite(v)]
    if not finite:
        return
    axes.plot(*finite[-1], marker="o", markersize=5, color=ACCENT, clip_on=False, zorder=3)
    text = quantity.significant(finite[-1][1])
    axes.annotate(text, finite[-1], (8, 0), textcoords="offset pixels", va="center", color=INK)


def _accuracy_limits(accuracies: Sequence[float]) -> tuple[float, float]:
    room = max(0.12 * (max(accuracies) - min(accuracies)), 0.002)
    return min(accuracies) - room, max(accuracies) + room


def _paint_stages(axes: Axes, stages: Sequence[StageResult]) -> None:
    exact = [axes.transData.transform((1, stage.accuracy))[1] for stage in stages]
    heights = spread(exact, LABEL_GAP, axes.bbox.y0, axes.bbox.y1)
    for stage, height in zip(stages, heights, strict=True):
        axes.axhline(stage.accuracy, color=MUTED, linewidth=1.0, dashes=(2, 3), alpha=0.8)
        axes.annotate(
            shorten(stage.name, LONGEST_LABEL),
            (axes.bbox.x1, height),
            (6, 0),
            xycoords="figure pixels",
            textcoords="offset pixels",
            va="center",
            color=MUTED,
        )


def _paint_files(axes: Axes, files: Sequence[FileResult], values: Sequence[float]) -> None:
    points = list(zip(values, [file.accuracy for file in files], strict=True))
    axes.plot(*zip(*points, strict=True), "o", color=ACCENT, markersize=8, zorder=5, clip_on=False)
    names = [shorten(file.name.removesuffix(".tflite"), LONGEST_NAME) for file in files]
    name_points(axes, points, names, [INK] * len(files))


def _paint_cells(axes: Axes, counts: Sequence[Sequence[int]]) -> None:
    most = max((n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j), default=0)
    for truth, row in enumerate(counts):
        for predicted, number in enumerate(row):
            if number:
                is_right = truth == predicted
                strength = 0.1 if is_right else 0.15 + (STRONGEST - 0.15) * number / most
                _paint_cell(axes, (predicted, truth), number, strength, is_right)
                if len(counts) <= MANY_CLASSES:
                    place = (predicted + 0.5, truth + 0.5)
                    axes.text(*place, str(number), ha="center", va="center")


def _paint_cell(
    axes: Axes, corner: tuple[int, int], number: int, strength: float, is_right: bool
) -> None:
    left, top = corner[0] + 0.04, corner[1] + 0.04
    x, y = [left, left + 0.92, left + 0.92, left], [top, top, top + 0.92, top + 0.92]
    axes.fill(x, y, facecolor=INK if is_right else ACCENT, alpha=strength, linewidth=0)


def _label_classes(axes: Axes, labels: Sequence[str]) -> None:
    every = math.ceil(len(labels) / MANY_CLASSES)
    places = [index + 0.5 for index in range(0, len(labels), every)]
    shown = labels[::every]
    is_long = max(map(len, shown)) > 3
    axes.set_xticks(places, shown, rotation=90 if is_long else 0)
    axes.set_yticks(places, shown)
    axes.tick_params(length=0, labelcolor=INK)


def _size(file: FileResult) -> float:
    return file.bytes


def _latency(file: FileResult) -> float | None:
    return file.latency_ms


def _steps(value: float) -> str:
    return f"{value:,.0f}" if value < 1e5 else rounded(quantity.short(value))
