"""Cold start: how long a person waits, with nothing compiled before and with everything compiled before.

    python -m benchmarks.cold_start

`python -m jaxmini run` in a fresh process, first with an empty compile cache, then with the one it left, then
with an empty one and XLA's own convolutions (`JAXMINI_CPU=plain`, freed memory kept all the same). By default
every stage is cut to a step or two, so that what is left is starting: importing, tracing, compiling,
exporting; that page is `first_step`. With --full the recipe runs as it is, and has a bar.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks import page
from jaxmini import recipe as recipes
from jaxmini.run.report.quantity import MISSING, duration
from jaxmini.run.report.table import Column, Row, Table

FIRST, CLOSE, WHOLE = "first finished step", "files and report", "whole"
EPOCHS = 0.1  # of every stage in the short form: at least one step is made
POLL = 0.05
BAR = 1.0  # the most of the whole run's wall time with XLA's convolutions that is good enough
COLD, WARM, PLAIN = "empty cache", "warm cache", "empty cache, XLA's convolutions"
# What ``jaxmini.cpu.keep_freed_memory`` does, for a process that is told to leave jax as it is.
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": str(2**28),
}
KINDS = {COLD: {}, WARM: {}, PLAIN: {"JAXMINI_CPU": "plain", **KEEP_FREED_MEMORY}}
COLUMNS = (
    Column("what"),
    *(
        Column(f"{name}, {side}", is_quantity=True)
        for side in ("wall", "CPU")
        for name in (*KINDS, "warm / empty", "empty / XLA's")
    ),
)


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds of wall and of CPU, all threads."""

    wall: float
    cpu: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


Runs = Mapping[str, Sequence[Mapping[str, Spent]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe in fresh processes, by turns; 1 where a recipe as it is misses the bar."""
    options = _parser().parse_args(arguments)
    stages = [stage.name for stage in recipes.load(options.config).recipe.stages]
    overrides = [] if options.full else [f"{name}.epochs={EPOCHS}" for name in stages]
    runs: dict[str, list[dict[str, Spent]]] = {kind: [] for kind in KINDS}
    for number in range(1 if options.quick else options.rounds):
        with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as another:
            for kind, variables in KINDS.items():
                folder = Path(another if kind == PLAIN else cache)
                runs[kind].append(timed(options.config, overrides, stages, folder, variables))
                print(f"round {number + 1}, {kind}: {runs[kind][-1][WHOLE]}", file=sys.stderr)
    page.show(shown(runs, options), page.given(arguments), write=options.write)
    return 1 if options.full and not options.quick and not is_kept(runs) else 0


def shown(runs: Runs, options: page.argparse.Namespace) -> page.Page:
    """The page of what was measured."""
    if options.full:
        form, judged = "as it is", f": bar {BAR:.2f} {'met' if is_kept(runs) else 'missed'}"
    else:
        form, judged = "cut short", ", without a bar: that is for the recipe as it is"
    return page.Page(
        name="cold_start" if options.full else "first_step",
        module="cold_start",
        title="Starting with and without a compile cache",
        method=f"{page.method(__doc__)} Medians of {len(runs[COLD])} runs of `{options.config}`, {form}.",
        table=Table(COLUMNS, (_rows(runs),)),
        findings=(
            f"From an empty cache the whole run, {form}, takes {_ratio(runs):.3f} of the wall time it "
            f"takes with XLA's own convolutions{judged}.",
        ),
    )


def is_kept(runs: Runs) -> bool:
    """Whether the whole run keeps the bar."""
    return _ratio(runs) <= BAR


def timed(
    config: str,
    overrides: Sequence[str],
    stages: Sequence[str],
    cache: Path,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Spent]:
    """What a run in a fresh process spends on its first step, on each stage, at its close, in all.

    Raises:
        RuntimeError: the run failed; with the end of what it said.
    """
    foreign = ("JAX_COMPILATION_CACHE_DIR", "JAXMINI_CPU")
    environment = {k: v for k, v in os.environ.items() if k not in foreign} | (variables or {})
    with tempfile.TemporaryDirectory() as folder:
        workdir, said = Path(folder) / "run", Path(folder) / "said.txt"
        command = [sys.executable, "-m", "jaxmini", "run", config, *overrides]
        with said.open("w") as output:
            began = time.time()
            process = subprocess.Popen(
                [*command, "--workdir", str(workdir)],
                env=environment | {"JAXMINI_CACHE_DIR": str(cache)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            used = _watch(process, began)
        if process.returncode:
            raise RuntimeError(f"the run failed:\n{said.read_text()[-2000:]}")
        return spent(workdir, stages, began, used)


def spent(
    workdir: Path, stages: Sequence[str], began: float, used: Sequence[Spent]
) -> dict[str, Spent]:
    """What was spent between the moments a finished workdir tells of.

    Args:
        workdir: of the run.
        stages: their names, in order.
        began: when the process was started.
        used: wall and CPU since then, in order of time; the last one is the end.
    """
    ends = [_at(_finished(workdir, name) - began, used) for name in stages]
    since = [Spent(0.0, 0.0), *ends]
    by_stage = {name: end - start for name, start, end in zip(stages, since, ends, strict=False)}
    first = _first_step(workdir)
    known = {} if first is None else {FIRST: _at(first - began, used)}
    return {**known, **by_stage, CLOSE: used[-1] - ends[-1], WHOLE: used[-1]}


def _watch(process: subprocess.Popen, began: float) -> list[Spent]:
    """What the process has used, now and then, until it ends."""
    used, watched = [Spent(0.0, 0.0)], psutil.Process(process.pid)
    while process.poll() is None:
        try:
            times = watched.cpu_times()
        except psutil.NoSuchProcess:
            break
        used.append(Spent(time.time() - began, times.user + times.system))
        time.sleep(POLL)
    process.wait()
    return [*used, Spent(time.time() - began, used[-1].cpu)]


def _at(wall: float, used: Sequence[Spent]) -> Spent:
    """What had been used at a moment, as far as was seen."""
    return Spent(wall, max(seen.cpu for seen in used if seen.wall <= wall + POLL))


def _finished(workdir: Path, stage: str) -> float:
    return (workdir / "stages" / stage / "finished.json").stat().st_mtime


def _first_step(workdir: Path) -> float | None:
    """When the first step had finished; None where its figures were not logged."""
    with (workdir / "metrics.jsonl").open() as lines:
        record = json.loads(next(lines))
    return record["time"] if record["step"] == 1 else None


def _ratio(runs: Runs) -> float:
    """The whole run's wall time, with an empty cache, over that with XLA's convolutions: of medians."""
    own, plain = (
        statistics.median(run[WHOLE].wall for run in runs[kind]) for kind in (COLD, PLAIN)
    )
    return own / plain


def _rows(runs: Runs) -> tuple[Row, ...]:
    rows = []
    for name in runs[COLD][0]:
        cells: list[str] = []
        for field in ("wall", "cpu"):
            cold, warm, plain = (
                statistics.median(getattr(run[name], field) for run in runs[kind])
                for kind in (COLD, WARM, PLAIN)
            )
            ratios = ((warm, cold), (cold, plain))
            cells += [duration(seconds) for seconds in (cold, warm, plain)]
            cells += [f"{of / to:.2f}" if to > 0 else MISSING for of, to in ratios]
        rows.append((name, *cells))
    return tuple(rows)


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("cold_start", __doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py", help="a recipe's file")
    parser.add_argument("--full", action="store_true", help="the recipe as it is, not cut short")
    parser.add_argument("--rounds", type=int, default=3, help="of both kinds (default: 3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
