"""Settings: what the settings of a process are worth to a training step on a CPU.

    python -m benchmarks.settings

A setting must be in place before the first computation, so each has a process of its own, and these take
turns. All make the float32 updates of `benchmarks.cpu`, with jaxmini's convolutions; a process tells its own
CPU time, wall time and page faults. Ratios are medians over the rounds, to the first setting, which is jax as
it is.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import jax

from benchmarks import cpu, page, pairs
from jaxmini.cpu import keep_freed_memory
from jaxmini.run.report.table import Column, Row, Table

COLUMNS = (
    Column("what"),
    Column("setting"),
    *(
        Column(name, is_quantity=True)
        for name in ("CPU", "wall", "CPU, ratio", "middle half", "wall, ratio", "faults a step")
    ),
)
KEEP = "freed memory kept"
# By name: the environment that a process of that setting starts with.
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "jax as it is": {},
    KEEP: {},
    "one thread": {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
    "fast math": {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"},
    "vectors of 512 bits": {"XLA_FLAGS": "--xla_cpu_prefer_vector_width=512"},
    "no YNNPACK": {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type="},
}
# The first for the tiny form, the others for the full one.
NETS = {case.name: case for case in (cpu.QUICK[0], cpu.NETS[0], cpu.NETS[3])}


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a step took: seconds of CPU and of wall, page faults."""

    cpu: float
    wall: float
    faults: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the settings by turns, net by net."""
    options = _parser().parse_args(arguments)
    if options.worker:
        return work(options.worker, options.batch, options.steps, keep=options.keep)
    nets, rounds = (list(NETS)[:1], 2) if options.quick else (list(NETS)[1:], options.rounds)
    groups = []
    for net in nets:
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(worker(name, net, options)) for name in SETTINGS}
            turns: dict[str, list[Turn]] = {name: [] for name in workers}
            for _ in range(rounds):
                for name, process in workers.items():
                    turns[name].append(ask(process))
        groups.append(tuple(_row(net, name, turns) for name in turns))
        print(*(" ".join(row) for row in groups[-1]), sep="\n", file=sys.stderr, flush=True)
    shown = page.Page(
        name="settings",
        title="What the settings of a process are worth on a CPU",
        method=f"{page.method(__doc__)} {rounds} rounds of {options.steps} steps, "
        f"batch {options.batch}.",
        table=Table(COLUMNS, tuple(groups)),
    )
    page.show(shown, page.given(arguments), write=options.write)
    return 0


@contextlib.contextmanager
def worker(setting: str, net: str, options: argparse.Namespace) -> Iterator[subprocess.Popen]:
    """A process of that setting that makes a turn of steps for every line it is told."""
    foreign = ("XLA_FLAGS", "MALLOC_ARENA_MAX")
    environment = {k: v for k, v in os.environ.items() if k not in foreign}
    size = 8 if options.quick else options.batch
    command = [sys.executable, "-m", "benchmarks.settings", "--worker", net]
    command += ["--batch", str(size), "--steps", str(options.steps)]
    process = subprocess.Popen(
        [*command, *(["--keep"] if setting == KEEP else [])],
        env=environment | SETTINGS[setting],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        ask(process)  # compiles, and makes the first steps
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen) -> Turn:
    """A turn.

    Raises:
        RuntimeError: the process has ended.
    """
    try:
        process.stdin.write("\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass
    said = process.stdout.readline()
    if not said:
        raise RuntimeError(f"{' '.join(process.args)} ended with code {process.wait()}")
    return Turn(**json.loads(said))


def work(net: str, batch: int, count: int, *, keep: bool) -> int:
    """What a process does: ``count`` steps a line of its input, and a line that tells what each took."""
    jax.config.update("jax_platforms", "cpu")
    if keep:
        keep_freed_memory()
    case = NETS[net]
    scene = case.scene(case.net, batch)
    train = cpu.Training(scene).by(cpu.compiled(scene, rule=True))
    for _ in sys.stdin:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds, began = time.process_time(), time.perf_counter()
        for _ in range(count):
            metrics = train()
        jax.block_until_ready(metrics)
        wall, seconds = time.perf_counter() - began, time.process_time() - seconds
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        print(json.dumps({"cpu": seconds / count, "wall": wall / count, "faults": faults / count}))
        sys.stdout.flush()
    return 0


def _row(net: str, name: str, turns: Mapping[str, Sequence[Turn]]) -> Row:
    timings = {
        each: pairs.Timing(tuple(t.cpu for t in made), tuple(t.wall for t in made))
        for each, made in turns.items()
    }
    (_, _, seconds, wall, *ratios) = dict(zip(timings, pairs.rows(net, timings), strict=True))[name]
    faults = sorted(turn.faults for turn in turns[name])[len(turns[name]) // 2]
    return net, name, seconds, wall, *ratios, f"{faults:,.0f}"


def _parser() -> argparse.ArgumentParser:
    parser = page.parser("settings", __doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="pictures a step")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn (default: 3)")
    parser.add_argument("--rounds", type=int, default=9, help="turns each setting has (default: 9)")
    parser.add_argument("--worker", choices=NETS, help="be the process of a setting, for this net")
    parser.add_argument("--keep", action="store_true", help="with --worker: keep freed memory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
