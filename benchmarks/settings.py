"""Settings: what the settings of a process are worth to a training step on a CPU.

    python -m benchmarks.settings

A setting must be in place before the first computation, so each has a process of its own, and these take
turns. All make the float32 updates of `benchmarks.cpu`, with jaxmini's convolutions; a process tells its own
CPU time, wall time and page faults. Ratios are medians over the rounds, to the first setting, which is jax as
it is.
"""

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence

import jax

from benchmarks import page, pairs, trainings, worker
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
NETS = {
    case.name: case
    for case in (trainings.QUICK[0], trainings.NETS[0], trainings.NETS[3], trainings.NETS[4])
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the settings by turns, net by net."""
    options = _parser().parse_args(arguments)
    if options.worker:
        return work(options.worker, options.batch, options.steps, keep=options.keep)
    nets, rounds = (list(NETS)[:1], 2) if options.quick else (list(NETS)[1:], options.rounds)
    groups = []
    for net in nets:
        with contextlib.ExitStack() as stack:
            asked = {name: stack.enter_context(_started(name, net, options)) for name in SETTINGS}
            turns: dict[str, list[worker.Turn]] = {name: [] for name in asked}
            for _ in range(rounds):
                for name, ask in asked.items():
                    turns[name].append(ask())
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


def work(net: str, batch: int, steps: int, *, keep: bool) -> int:
    """What a process of a setting does."""
    jax.config.update("jax_platforms", "cpu")
    if keep:
        keep_freed_memory()
    case = NETS[net]
    scene = case.scene(case.net, batch)
    return worker.serve(trainings.Training(scene).by(trainings.compiled(scene, rule=True)), steps)


def _started(setting: str, net: str, options: argparse.Namespace):
    size = 8 if options.quick else options.batch
    arguments = ["-m", "benchmarks.settings", "--worker", net]
    arguments += ["--batch", str(size), "--steps", str(options.steps)]
    keep = ["--keep"] if setting == KEEP else []
    return worker.started([*arguments, *keep], SETTINGS[setting])


def _row(net: str, name: str, turns: Mapping[str, Sequence[worker.Turn]]) -> Row:
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
