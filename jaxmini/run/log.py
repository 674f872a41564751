"""Log: what a person sees of a run while it goes on, and the file of figures that stays.

A terminal shows one line that is written over; anything else gets a line now and then.
``metrics.jsonl`` holds every figure, one JSON object a line.
"""

import dataclasses
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from jaxmini.run import together
from jaxmini.run.tensorboard import Events, open_events

FILE = "metrics.jsonl"
# Where the line is not written over: a new one after so many seconds, or that share of the stage.
SECONDS, SHARE = 10.0, 0.1
_CLEAR = "\r\x1b[K"

Points = tuple[tuple[int, ...], tuple[float, ...]]


class _Mark(NamedTuple):
    """Where a stage was at some time."""

    stage: str
    step: int
    time: float


@dataclasses.dataclass
class Log:
    """The voice of a run. Only process 0 of several prints and writes.

    Attributes:
        folder: where ``metrics.jsonl`` and TensorBoard's events go.
        stream: where lines go; the standard output if None.
        clock: seconds since the epoch.
        tensorboard: write TensorBoard events as well; needs the extra ``jaxmini[tensorboard]``.

    Raises:
        ImportError: ``tensorboard`` is asked for and not installed; names the extra.
    """

    folder: Path
    stream: TextIO | None = None
    clock: Callable[[], float] = time.time
    tensorboard: bool = False

    def __post_init__(self) -> None:
        self._file = self.folder / FILE
        self._leads = together.leads()
        self._events: Events | None = None
        self._begun: _Mark | None = None
        self._shown: _Mark | None = None
        self._line_open = False
        if self._leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(self._file)
            if self.tensorboard:
                self._events = open_events(self.folder / "tensorboard")

    def event(self, text: str) -> None:
        """Say something that happened."""
        self._print(text)

    def progress(
        self,
        stage: str,
        step: int,
        total: int,
        metrics: Mapping[str, float],
        examples_per_second: float,
    ) -> None:
        """Show how far the stage is, and keep its training figures.

        Args:
            stage: its name.
            step: steps done, 1..total.
            total: steps of the stage.
            metrics: figures of training up to this step; any may be NaN or infinite.
            examples_per_second: since the last call.
        """
        self._keep(stage, step, "train", metrics, examples_per_second=float(examples_per_second))
        now = _Mark(stage, step, self.clock())
        if self._begun is None or self._begun.stage != stage:
            self._begun, self._shown = now, None
        parts = [f"{stage}  {step:,}/{total:,}  {100 * step // total:3d} %"]
        if self._begun.step < step < total:
            pace = (now.time - self._begun.time) / (step - self._begun.step)
            parts.append(f"{_duration(pace * (total - step))} left")
        parts += [f"{examples_per_second:,.0f} examples/s", *_figures(metrics)]
        self._show("  ".join(parts), now, total)

    def figures(
        self, stage: str, step: int, metrics: Mapping[str, float], split: str = "test"
    ) -> None:
        """Say and keep what was measured on a split; nothing if there are no metrics."""
        if metrics:
            self._keep(stage, step, split, metrics)
            self._print("  ".join([f"{stage}  {step:,}  {split}", *_figures(metrics)]))

    def truncate(self, stage: str, step: int) -> None:
        """Forget the stage's figures after the step: a resumed run makes them again."""
        if not self._leads or not self._file.exists():
            return
        lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [
            line
            for line, record in zip(lines, self._records(), strict=True)
            if record["stage"] != stage or record["step"] <= step
        ]
        if len(kept) < len(lines):
            partial = self._file.with_suffix(".partial")
            partial.write_text("".join(kept), encoding="utf-8")
            partial.replace(self._file)

    def curves(self, stage: str) -> dict[str, Points]:
        """The stage's figures as (steps, values), by split and metric: ``"train loss"``."""
        points: dict[str, list[tuple[int, float]]] = {}
        for record in self._records():
            if record["stage"] == stage:
                for name, value in record["metrics"].items():
                    curve = points.setdefault(f"{record['split']} {name}", [])
                    curve.append((record["step"], float(value)))
        return {name: tuple(zip(*curve, strict=True)) for name, curve in points.items()}

    def close(self) -> None:
        """End the line that is being written over, and TensorBoard's file."""
        self._end_line("\n")
        if self._events is not None:
            self._events.close()

    def _keep(
        self, stage: str, step: int, split: str, metrics: Mapping[str, float], **more: float
    ) -> None:
        if not self._leads:
            return
        values = {name: float(value) for name, value in metrics.items()}
        record = {
            "time": round(self.clock(), 3),
            "stage": stage,
            "step": int(step),
            "split": split,
            "metrics": {name: _json_number(value) for name, value in values.items()},
            **{name: _json_number(value) for name, value in more.items()},
        }
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
        if self._events is not None:
            self._events.write(step, {f"{stage}/{split}/{k}": v for k, v in values.items()})

    def _records(self) -> list[dict[str, Any]]:
        if not self._file.exists():
            return []
        records = []
        lines = self._file.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"{self._file}:{number} is not JSON; remove that line to go on: {line[:80]!r}"
                ) from error
        return records

    def _show(self, line: str, now: _Mark, total: int) -> None:
        stream = self.stream or sys.stdout
        if not self._leads:
            return
        if stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            stream.write(_CLEAR + line[:width])
            self._line_open = True
            if now.step >= total:
                self._end_line("\n")
            stream.flush()
        elif self._is_due(now, total):
            self._shown = now
            self._print(line)

    def _is_due(self, now: _Mark, total: int) -> bool:
        last = self._shown
        return (
            last is None
            or now.step >= total
            or now.time - last.time >= SECONDS
            or now.step - last.step >= SHARE * total
        )

    def _print(self, text: str) -> None:
        if self._leads:
            self._end_line(_CLEAR)
            stream = self.stream or sys.stdout
            stream.write(text + "\n")
            stream.flush()

    def _end_line(self, end: str) -> None:
        if self._line_open:
            (self.stream or sys.stdout).write(end)
            self._line_open = False


def _figures(metrics: Mapping[str, float]) -> list[str]:
    return [f"{name} {float(value):#.4g}" for name, value in metrics.items()]


def _duration(seconds: float) -> str:
    """``1:05`` or ``2:00:09``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _json_number(value: float) -> float | str:
    """The number, or its text (``"nan"``, ``"inf"``) where JSON has no number for it."""
    return value if math.isfinite(value) else repr(value)


def _cut_torn_line(file: Path) -> None:
    """Drop a last line that a killed process did not finish."""
    if file.exists():
        content = file.read_bytes()
        os.truncate(file, content.rfind(b"\n") + 1)
