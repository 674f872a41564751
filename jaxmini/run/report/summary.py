"""Summary: what the figures of a report come to, as an outcome in a sentence and as tables."""

from jaxmini.run.report import quantity
from jaxmini.run.report.content import FileResult, Report, StageResult
from jaxmini.run.report.table import Column, Row, Table, without_empty

_CLOSING = (
    Column("name"),
    Column("what it is"),
    Column("labels", is_quantity=True),
    Column("params", is_quantity=True),
    Column("size", is_quantity=True),
    Column("accuracy", is_quantity=True),
    Column("gain, pt", is_quantity=True),
    Column("over"),
    Column("time", is_quantity=True),
    Column("latency", is_quantity=True),
)


def closing(report: Report) -> Table:
    """The closing table: a row for each stage, then a row for each file.

    ``gain`` is in percentage points of accuracy: of a stage over the one it is compared against,
    of a file over the network it was made from.
    """
    stages = tuple(_stage_row(report, stage) for stage in report.stages)
    files = tuple(_file_row(report, file) for file in report.files)
    return without_empty(Table(_CLOSING, (stages, files)))


def fidelity(report: Report) -> Table:
    """How alike the compared predictors answer."""
    columns = (
        Column("a"),
        Column("b"),
        Column("same answer", is_quantity=True),
        Column("KL(a ‖ b), nats", is_quantity=True),
    )
    rows = (
        (pair.a, pair.b, quantity.percent(pair.top1), quantity.significant(pair.kl))
        for pair in report.fidelity
    )
    return Table(columns, (tuple(rows),))


def operations(file: FileResult) -> Table:
    """The operations of a file, the most frequent first."""
    ordered = sorted(file.ops.items(), key=lambda item: (-item[1], item[0]))
    rows = tuple((name, quantity.count(number)) for name, number in ordered)
    return Table((Column("operation"), Column("count", is_quantity=True)), (rows,))


def headline(report: Report) -> FileResult | None:
    """The file the outcome is about: the smallest that was evaluated and passed all of its gates.

    If none did, the smallest that has gates; if none has, the smallest.
    """
    gated = {verdict.of for verdict in report.gates}
    failed = {verdict.of for verdict in report.gates if not verdict.passed}
    measured = [file for file in report.files if file.accuracy is not None]
    asked = [file for file in measured if file.name in gated]
    passed = [file for file in asked if file.name not in failed]
    return min(passed or asked or measured, key=lambda file: file.bytes, default=None)


def outcome(report: Report) -> str:
    """The outcome of the run in one sentence, of measured figures only."""
    file = headline(report)
    if file is not None:
        says = f"{file.name} gets {quantity.percent(file.accuracy)} of the test pictures right "
        return f"{says}in {quantity.short(file.bytes, 'B')}{_joined(_comparisons(report, file))}."
    measured = [stage for stage in report.stages if stage.accuracy is not None]
    if not measured:
        return "No network and no file of this run was evaluated."
    stage = measured[-1]
    says = f"{stage.name} gets {quantity.percent(stage.accuracy)} of the test pictures right"
    return f"{says}{_joined(_over(stage.accuracy, report.stage(stage.against)))}."


def gates(report: Report) -> Table:
    """Every gate with what was measured, what was asked, and PASS or FAIL."""
    columns = map(Column, ("gate", "of", "measured", "limit", "verdict"))
    rows = (
        (v.gate, v.of, v.measured, v.limit, "PASS" if v.passed else "FAIL") for v in report.gates
    )
    return Table(tuple(columns), (tuple(rows),))


def verdict(report: Report) -> str:
    """Whether the gates were passed, and which were not; empty if there were none."""
    number = len(report.gates)
    if not number:
        return ""
    failed = [f"{v.gate} of {v.of}" for v in report.gates if not v.passed]
    if failed:
        return f"{len(failed)} of {number} gates failed: {', '.join(failed)}"
    return "The one gate passed" if number == 1 else f"All {number} gates passed"


def confusions(report: Report, most: int = 5) -> tuple[tuple[str, str, int], ...]:
    """The most frequent confusions: (truth, predicted, how often), no more than ``most``."""
    found = [
        (report.labels[truth], report.labels[predicted], number)
        for truth, row in enumerate(report.confusion)
        for predicted, number in enumerate(row)
        if truth != predicted and number
    ]
    return tuple(sorted(found, key=lambda item: -item[2])[:most])


def gain(accuracy: float | None, baseline: StageResult | None) -> float | None:
    """Accuracy above the baseline's, None where either was not measured."""
    if accuracy is None or baseline is None or baseline.accuracy is None:
        return None
    return accuracy - baseline.accuracy


def _stage_row(report: Report, stage: StageResult) -> Row:
    return (
        stage.name,
        f"{stage.kind}, {stage.data}" if stage.data else stage.kind,
        quantity.count(stage.labels_used),
        quantity.short(stage.params),
        quantity.MISSING,
        quantity.percent(stage.accuracy),
        quantity.points(gain(stage.accuracy, report.stage(stage.against))),
        stage.against or quantity.MISSING,
        quantity.duration(stage.seconds),
        quantity.MISSING,
    )


def _file_row(report: Report, file: FileResult) -> Row:
    return (
        file.name,
        f"{file.variant} file, {file.backend}",
        quantity.MISSING,
        quantity.MISSING,
        quantity.short(file.bytes, "B"),
        quantity.percent(file.accuracy),
        quantity.points(gain(file.accuracy, report.stage(file.made_from))),
        file.made_from or quantity.MISSING,
        quantity.MISSING,
        quantity.milliseconds(file.latency_ms),
    )


def _comparisons(report: Report, file: FileResult) -> list[str]:
    """What to say of the smallest file beside the largest one and the baseline of its network."""
    largest = max(report.files, key=lambda other: other.bytes)
    said = []
    if largest.bytes >= 1.05 * file.bytes:
        ratio = largest.bytes / file.bytes
        said.append(f"{quantity.significant(ratio, 2)} times smaller than {largest.name}")
    network = report.stage(file.made_from)
    baseline = report.stage(network.against) if network is not None else None
    said += _over(file.accuracy, network) if gain(file.accuracy, network) else []
    return said + _over(file.accuracy, baseline)


def _over(accuracy: float | None, baseline: StageResult | None) -> list[str]:
    difference = gain(accuracy, baseline)
    if difference is None or baseline is None:
        return []
    amount = quantity.points(difference)
    if amount == "0.00":
        return [f"as often as {baseline.name}"]
    direction = "above" if difference > 0 else "below"
    return [f"{amount[1:]} points {direction} {baseline.name}"]


def _joined(parts: list[str]) -> str:
    if not parts:
        return ""
    *first, last = parts
    return ": " + (f"{', '.join(first)} and {last}" if first else last)
