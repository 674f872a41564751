"""Gates: what a recipe's files and stages must keep for a run to pass, judged by measured figures alone.

A gate names a stage or an export of its recipe as a value: ``max_bytes(file, 100_000)``. Gates change nothing
that a run computes, so a finished run can be judged again by others.
"""

import dataclasses
import difflib
import functools
import types
from collections.abc import Callable, Iterable

from jaxmini.export import converter, flatbuffer
from jaxmini.run.formats import Onnx
from jaxmini.run.report import quantity
from jaxmini.run.report.content import FileResult, Report, StageResult, Verdict
from jaxmini.run.stage import Contrastive, Export, Gate, Stage

# Points. The difference of two shares is rounded by far less, one picture in a million is far more.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class max_bytes(Gate):
    """The file of ``export`` has at most ``limit`` bytes, 1 or more."""

    export: Export
    limit: int

    def __post_init__(self) -> None:
        _require(self, "export", Export)
        _require_number(self, "limit", 1)

    def judge(self, report: Report) -> Verdict:
        return _verdict(
            self,
            self.export,
            _result(report, self.export).bytes,
            holds=lambda size: size <= self.limit,
            says=lambda size: f"{size:,} bytes",
            limit=f"at most {self.limit:,} bytes",
        )


@dataclasses.dataclass(frozen=True)
class max_accuracy_drop(Gate):
    """The file is right at most ``points`` percentage points (0..100) less often than the stage ``below``.

    Both must have the same test pictures, which is seen to before a run begins.
    """

    export: Export
    below: Stage
    points: float

    def __post_init__(self) -> None:
        _require(self, "export", Export)
        _require(self, "below", Stage)
        _require_logits(self, self.below)
        _require_number(self, "points", 0, 100)

    def judge(self, report: Report) -> Verdict:
        file, stage = _result(report, self.export), _result(report, self.below)
        measured = None not in (file.accuracy, stage.accuracy)
        return _verdict(
            self,
            self.export,
            100 * (stage.accuracy - file.accuracy) if measured else None,
            holds=lambda drop: drop <= self.points + _ROUNDING,
            says=lambda drop: f"{_drop(drop, self.points)} {self.below.name}",
            limit=f"at most {_exact(self.points)} points below {self.below.name}",
        )


@dataclasses.dataclass(frozen=True)
class min_accuracy(Gate):
    """The answers of a stage's network, or of a file, are right on at least this share (0..1) of the test."""

    of: Stage | Export
    accuracy: float

    def __post_init__(self) -> None:
        _require(self, "of", Stage | Export)
        _require_logits(self, self.of)
        _require_number(self, "accuracy", 0, 1)

    def judge(self, report: Report) -> Verdict:
        found = _result(report, self.of).accuracy
        return _at_least(self, self.of, found, self.accuracy)


@dataclasses.dataclass(frozen=True)
class min_agreement(Gate):
    """The file gives the answer of the network it was made from on at least this share (0..1) of the test."""

    export: Export
    fraction: float

    def __post_init__(self) -> None:
        _require(self, "export", Export)
        _require_number(self, "fraction", 0, 1)

    def judge(self, report: Report) -> Verdict:
        found = _result(report, self.export).agreement
        return _at_least(self, self.export, found, self.fraction)


@dataclasses.dataclass(frozen=True)
class only_ops(Gate):
    """The file holds no other operations than these, as its format calls them: ``("CONV_2D", "ADD")``.

    Raises:
        ValueError: the format does not tell its operations, as .tflite and .onnx files do; or a name is none
            of the format's, and the nearest is given.
        ImportError: ai-edge-litert or onnx, which knows the names, is not installed.
    """

    export: Export
    allowed: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_told(self)
        _require(self, "allowed", tuple)
        for name in self.allowed:
            _require_op(name, self.export)

    def judge(self, report: Report) -> Verdict:
        ops = _result(report, self.export).ops
        return _verdict(
            self,
            self.export,
            # Every file holds some: where there are none they were not told.
            {name: number for name, number in ops.items() if name not in self.allowed}
            if ops
            else None,
            holds=lambda others: not others,
            says=lambda others: f"{_listed(others)} besides" if others else "no others",
            limit=f"only {', '.join(self.allowed)}" if self.allowed else "no operations",
        )


@dataclasses.dataclass(frozen=True)
class all_integer(Gate):
    """No operation of the file reads or gives floats, inside or at its ends.

    Raises:
        ValueError: the format does not tell its operations, as .tflite and .onnx files do.
    """

    export: Export

    def __post_init__(self) -> None:
        _require_told(self)

    def judge(self, report: Report) -> Verdict:
        return _verdict(
            self,
            self.export,
            _result(report, self.export).float_ops,
            holds=lambda ops: not ops,
            says=lambda ops: f"float: {_listed(ops)}" if ops else "no float operation",
            limit="no float operation",
        )


@dataclasses.dataclass(frozen=True)
class max_latency_ratio(Gate):
    """The file's median latency is at most ``ratio`` (above 0) times that of another file of the run.

    Raises:
        ValueError: one of them is of a format that is not timed, or both are the same.
    """

    export: Export
    other: Export
    ratio: float

    def __post_init__(self) -> None:
        _require_timed(self, "export")
        _require_timed(self, "other")
        _require_number(self, "ratio", 0)
        if self.ratio == 0:
            raise ValueError("max_latency_ratio: ratio is 0; no file takes no time")
        if self.export == self.other:
            raise ValueError(
                f"max_latency_ratio: export and other are both {self.export.file_name}; give two files"
            )

    def judge(self, report: Report) -> Verdict:
        ours, theirs = (_result(report, file).latency_ms for file in (self.export, self.other))
        return _verdict(
            self,
            self.export,
            ours / theirs if ours is not None and theirs else None,
            holds=lambda ratio: ratio <= self.ratio,
            says=lambda ratio: f"{_told(ratio, self.ratio)} times {self.other.file_name}",
            limit=f"at most {_exact(self.ratio)} times {self.other.file_name}",
        )


@dataclasses.dataclass(frozen=True)
class micro(Gate):
    """TFLite-Micro, of microcontrollers, runs the file, in integers throughout, as ``export.micro`` asks."""

    export: Export

    def __post_init__(self) -> None:
        _require_tflite(self)

    def judge(self, report: Report) -> Verdict:
        return _verdict(
            self,
            self.export,
            _result(report, self.export).micro,
            holds=lambda obstacles: not obstacles,
            says=lambda obstacles: "; ".join(obstacles) if obstacles else "runs in TFLite-Micro",
            limit="runs in TFLite-Micro",
        )


@dataclasses.dataclass(frozen=True)
class max_arena(Gate):
    """The file runs in TFLite-Micro with at most ``limit`` bytes (1 or more) of working memory."""

    export: Export
    limit: int

    def __post_init__(self) -> None:
        _require_tflite(self)
        _require_number(self, "limit", 1)

    def judge(self, report: Report) -> Verdict:
        return _verdict(
            self,
            self.export,
            _result(report, self.export).arena_bytes,
            holds=lambda size: size <= self.limit,
            says=lambda size: f"an arena of {size:,} bytes",
            limit=f"an arena of at most {self.limit:,} bytes",
        )


def asks_for_micro(gates: Iterable[Gate], export: Export) -> bool:
    """Whether one of the gates can be judged only by running the file of ``export`` in TFLite-Micro."""
    return any(isinstance(gate, micro | max_arena) and gate.export == export for gate in gates)


def _verdict(
    gate: Gate,
    of: Stage | Export,
    figure: object,
    *,
    holds: Callable[..., bool],
    says: Callable[..., str],
    limit: str,
) -> Verdict:
    """The verdict on a figure; one that was not measured (None) cannot pass."""
    name, subject = type(gate).__name__, _name(of)
    if figure is None:
        return Verdict(name, subject, "not measured", limit, passed=False)
    return Verdict(name, subject, says(figure), limit, passed=bool(holds(figure)))


def _at_least(gate: Gate, of: Stage | Export, share: float | None, least: float) -> Verdict:
    return _verdict(
        gate,
        of,
        share,
        holds=lambda share: share >= least,
        says=lambda share: quantity.percent(share, _decimals(100 * share, 100 * least)),
        limit=f"at least {_exact(100 * least)}%",
    )


def _result(report: Report, of: Stage | Export) -> StageResult | FileResult:
    return report.stage(of.name) if isinstance(of, Stage) else report.file(of.file_name)


def _name(of: Stage | Export) -> str:
    return of.name if isinstance(of, Stage) else of.file_name


def _drop(drop: float, limit: float) -> str:
    return f"{_told(drop, limit)} points below" if drop >= 0 else f"{-drop:.2f} points above"


def _told(value: float, limit: float) -> str:
    return f"{value:.{_decimals(value, limit)}f}"


def _decimals(value: float, limit: float) -> int:
    """As few decimals, from two on, as show on which side of the limit the value is."""
    value = limit if abs(value - limit) <= _ROUNDING else value
    for decimals in range(2, 9):
        shown = round(value, decimals)
        if (shown < limit, shown > limit) == (value < limit, value > limit):
            return decimals
    return 9


def _exact(limit: float) -> str:
    return f"{limit:.10g}"


def _listed(ops: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in ops.items())


def _require(gate: Gate, field: str, kind: type | types.UnionType) -> None:
    value = getattr(gate, field)
    if not isinstance(value, kind):
        expected = getattr(kind, "__name__", str(kind).replace("jaxmini.run.stage.", ""))
        found = repr(value) if isinstance(value, str) else type(value).__name__
        raise TypeError(
            f"{type(gate).__name__}: {field} is {found}, expected {expected}, the value itself"
        )


def _require_number(gate: Gate, field: str, least: float, most: float = float("inf")) -> None:
    value, where = getattr(gate, field), f"{type(gate).__name__}: {field}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{where} is {value!r}, expected a number")
    if not least <= value <= most or value == float("inf"):
        bounds = f"{least} or more" if most == float("inf") else f"in {least}..{most}"
        raise ValueError(f"{where} is {value}, expected {bounds}")


def _require_logits(gate: Gate, of: Stage | Export) -> None:
    if isinstance(of, Contrastive):
        raise ValueError(
            f"{type(gate).__name__} of stage {of.name!r}: its outputs are embeddings, which are neither "
            "right nor wrong; give a Supervised or Distill stage that starts from it"
        )


def _require_told(gate: Gate) -> None:
    """See that a gate of operations speaks of a file that tells its own."""
    _require(gate, "export", Export)
    if not gate.export.tells_operations:
        raise ValueError(
            f"gate {type(gate).__name__}: what operations {gate.export.file_name} holds is not told, as "
            "whoever loads it compiles it anew; give it an Export(...) or an Onnx(...)"
        )


def _require_timed(gate: Gate, field: str) -> None:
    """See that a gate of latencies speaks of a file that is timed."""
    _require(gate, field, Export)
    if not getattr(gate, field).is_timed:
        raise ValueError(
            f"gate {type(gate).__name__}: {field} is {getattr(gate, field).file_name}, which is not timed; "
            "give it a file of another format"
        )


def _require_tflite(gate: Gate) -> None:
    """See that a gate of microcontrollers speaks of a file that they may run."""
    _require(gate, "export", Export)
    if gate.export.ending != ".tflite":
        raise ValueError(
            f"gate {type(gate).__name__}: TFLite-Micro runs .tflite files, and {gate.export.file_name} is "
            "none; give it an Export(...)"
        )
    if gate.export.layout.embedding is not None:
        raise ValueError(
            f"gate {type(gate).__name__}: TFLite-Micro runs files of one signature, and the layout of "
            f"{gate.export.file_name} adds one, embedding; give it an export without"
        )


def _require_op(name: str, export: Export) -> None:
    if not isinstance(name, str):
        raise TypeError(f"only_ops: an allowed operation is {name!r}, expected its name")
    format_, known, example = (
        ("ONNX", _onnx_ops(), "MaxPool")
        if isinstance(export, Onnx)
        else ("TFLite", _builtin_ops(), "CONV_2D")
    )
    if name not in known:
        alike = {other.lower(): other for other in known}
        near = difflib.get_close_matches(name.lower(), alike, 1)
        hint = (
            f"Did you mean {alike[near[0]]!r}?" if near else f"They are written as in {example!r}"
        )
        raise ValueError(f"only_ops: {format_} has no operation {name!r}. {hint}")


@functools.cache
def _onnx_ops() -> tuple[str, ...]:
    converter.require("onnx", "onnx")
    import onnx

    return tuple({schema.name for schema in onnx.defs.get_all_schemas()})


@functools.cache
def _builtin_ops() -> tuple[str, ...]:
    names = vars(flatbuffer.schema_module().BuiltinOperator)
    return tuple(name for name, number in names.items() if isinstance(number, int))
