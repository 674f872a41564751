"""Tables: a benchmark and parities as text for a terminal."""

from collections.abc import Iterator

from jaxmini.evaluate.benchmark import Benchmark
from jaxmini.evaluate.deviation import CLASSES, Deviation
from jaxmini.evaluate.function_parity import FunctionParity
from jaxmini.evaluate.operators import OperatorParity, first_deviating
from jaxmini.evaluate.parity import FileParity, Stored
from jaxmini.export import Micro
from jaxmini.run.report import quantity
from jaxmini.run.report.quantity import MISSING
from jaxmini.run.report.table import Column, Row, Table, text

_CLASSES = tuple(
    Column(f"{name} LSB".replace("more LSB", "more"), is_quantity=True) for name in CLASSES
)


def benchmark_text(name: str, measured: Benchmark) -> str:
    """All figures of a file.

    Args:
        name: how the file is called.
        measured: its figures.
    """
    cost = measured.cost
    parts = [text(_figures(name, measured)), text(_operators(measured))]
    if cost.uncounted:
        parts.append(f"multiplications of {', '.join(cost.uncounted)} are not counted")
    if cost.counted_once:
        parts.append(f"what {', '.join(cost.counted_once)} run is counted once")
    parts.append(text(_latencies(measured)))
    parts.append(f"{measured.warmup} runs before each clock started")
    return "\n\n".join(parts)


def parity_text(name: str, origin: str, found: FileParity) -> str:
    """A file beside its artifact, the most telling first.

    Args:
        name: how the file is called.
        origin: where the pictures come from.
        found: the comparison.
    """
    parts = [f"{name} on {found.images:,} pictures: {origin}"]
    if found.stored is not None:
        parts.append(_stored(found.stored))
    parts.append(text(_answers(found)))
    for kernels, answers in found.answers.items():
        if answers.operators:
            pictures = f"{found.operator_images} pictures"
            parts.append(
                f"operators of {kernels} on {pictures}, each fed with the file's own inputs\n\n"
                + text(_per_operator(answers.operators))
                + f"\n\n{_first(answers.operators)}"
            )
    return "\n\n".join(parts)


def function_parity_text(name: str, found: FunctionParity) -> str:
    """A file beside a function, and its kernels beside one another.

    Args:
        name: how the file is called.
        found: the comparison.
    """
    grid = "" if found.step is None else f", 1 LSB is {quantity.significant(found.step)}"
    parts = [f"{name} on {found.inputs:,} inputs{grid}", text(_apart(found))]
    if found.accuracy is not None:
        own = quantity.percent(found.accuracy)
        parts.append(f"the function itself is right on {own} of {found.labelled:,} with a label")
    for kernels, operators in found.operators.items():
        parts.append(
            f"operators of {kernels} beside those of {found.base} on {found.operator_inputs} inputs, "
            f"each fed with what {found.base} computed before it\n\n{text(_per_operator(operators))}\n\n"
            f"{_first(operators)}"
        )
    return "\n\n".join(parts)


def micro_text(written: Micro) -> str:
    """The sources that were written, and the memory they need.

    Args:
        written: what ``export.micro`` returned.
    """
    arena = written.arena
    rows = (
        ("bytes of the model, which may stay in flash", quantity.count(written.bytes)),
        ("bytes of the arena, tried with TFLite-Micro here", quantity.count(arena.smallest)),
        ("as it reports: activations and scratch memory", quantity.count(arena.activations)),
        ("as it reports: persistent", quantity.count(arena.persistent)),
        ("operators", ", ".join(written.ops)),
    )
    table = Table((Column(written.name), Column("", is_quantity=True)), (rows,))
    return "\n".join([text(table), "", *map(str, written.files)])


def _figures(name: str, measured: Benchmark) -> Table:
    cost = measured.cost
    rows = (
        ("parameters", quantity.count(cost.params)),
        ("multiply-accumulates", quantity.count(cost.macs)),
        ("bytes of the file", quantity.count(cost.bytes)),
        ("bytes of weights", quantity.count(cost.weight_bytes)),
        ("peak bytes of activations", quantity.count(cost.peak_bytes)),
    )
    return Table((Column(name), Column("", is_quantity=True)), (rows,))


def _operators(measured: Benchmark) -> Table:
    columns = (
        Column("operator"),
        Column("count", is_quantity=True),
        Column("multiply-accumulates", is_quantity=True),
    )
    rows = (
        (op.name, quantity.count(op.count), quantity.count(op.macs)) for op in measured.cost.ops
    )
    return Table(columns, (tuple(rows),))


def _latencies(measured: Benchmark) -> Table:
    columns = (
        Column(f"time of one run, {measured.kernels}"),
        Column("median", is_quantity=True),
        Column("10th percentile", is_quantity=True),
        Column("90th percentile", is_quantity=True),
        Column("runs", is_quantity=True),
    )
    rows = (
        (
            f"{threads} thread{'s' * (threads > 1)}",
            *map(quantity.milliseconds, (timed.median, timed.low, timed.high)),
            quantity.count(timed.runs),
        )
        for threads, timed in measured.latencies.items()
    )
    return Table(columns, (tuple(rows),))


def _stored(stored: Stored) -> str:
    counts = vars(stored.compared).items()
    compared = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts if count)
    if not stored.differences:
        return f"stored numbers: all as trained ({compared})"
    lines = "\n".join(f"  {line}" for line in stored.differences)
    return f"stored numbers: not as trained (compared: {compared})\n{lines}"


def _answers(found: FileParity) -> Table:
    integers = any(answers.deviation for answers in found.answers.values())
    columns = (
        Column("kernels"),
        Column("same answer", is_quantity=True),
        Column("accuracy", is_quantity=True),
        Column("largest difference", is_quantity=True),
        *(_CLASSES if integers else ()),
    )
    network = "integer simulation" if integers else "trained network"
    width = len(columns) - 3
    rows = [(network, MISSING, quantity.percent(found.accuracy), *(MISSING,) * width)]
    for kernels, answers in found.answers.items():
        apart = answers.deviation
        largest = quantity.significant(answers.largest_difference)
        rows.append(
            (
                str(kernels),
                quantity.percent(answers.agreement),
                quantity.percent(answers.accuracy),
                largest if apart is None else f"{apart.largest} LSB",
                *(_counts(apart) if integers else ()),
            )
        )
    return Table(columns, (tuple(rows),))


def _apart(found: FunctionParity) -> Table:
    integers = any(apart.deviation for apart in found.answers.values())
    columns = (
        Column("kernels"),
        Column("same answer", is_quantity=True),
        *([Column("accuracy", is_quantity=True)] if found.labelled else []),
        Column("largest difference", is_quantity=True),
        Column("mean", is_quantity=True),
        *(_CLASSES if integers else ()),
    )
    return Table(columns, (tuple(_apart_rows(found)),))


def _apart_rows(found: FunctionParity) -> Iterator[Row]:
    for kernels, apart in found.answers.items():
        figures = (quantity.significant(apart.largest), quantity.significant(apart.mean))
        if apart.deviation is not None:
            mean = f"{quantity.significant(apart.mean_steps)} LSB"
            figures = (f"{apart.deviation.largest} LSB", mean, *_counts(apart.deviation))
        right = (quantity.percent(apart.accuracy),) if found.labelled else ()
        yield str(kernels), quantity.percent(apart.agreement), *right, *figures


def _per_operator(operators: tuple[OperatorParity, ...]) -> Table:
    columns = (
        Column("", is_quantity=True),
        Column("operator"),
        Column("of the network"),
        Column("largest", is_quantity=True),
        *_CLASSES,
    )
    return Table(columns, (tuple(_operator_rows(operators)),))


def _operator_rows(operators: tuple[OperatorParity, ...]) -> Iterator[Row]:
    for op in operators:
        largest = MISSING if op.deviation is None else str(op.deviation.largest)
        yield str(op.index), op.name, op.group or MISSING, largest, *_counts(op.deviation)


def _counts(apart: Deviation | None) -> Row:
    """How many numbers are in each class of the histogram; a dash for none."""
    counts = (0,) * len(CLASSES) if apart is None else apart.histogram
    return tuple(quantity.count(number or None) for number in counts)


def _first(operators: tuple[OperatorParity, ...]) -> str:
    first = first_deviating(operators)
    if first is None:
        return "no operator deviates"
    where = f"operator {first.index} {first.name}" + (f", {first.group}" if first.group else "")
    return f"the first deviation is at {where}: by at most {first.deviation.largest} LSB"
