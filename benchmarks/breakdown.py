"""Breakdown: where the time of a training step on a CPU goes.

    python -m benchmarks.breakdown

The float32 updates of `benchmarks.cpu` with jaxmini's convolutions, freed memory kept, run under
`jax.profiler`, which times each instruction of the compiled program on the thread that runs it. Shares are
of the sum of those times. It is not the step's CPU time, which is measured without the profiler and stands
beside it: the part of an instruction that other threads take over is not timed, what waits for them or for a
core is, and instructions that run at the same time count both. On one core (`taskset -c 0`) there is one
thread.
An instruction is told by the name that JAX gave it. One that does several things counts as a convolution or a
matrix product where it holds one, else as what its last result is for. A convolution is all that its
formulation does, copies too; a norm is what stands under a module of that name; the optimizer is what is
neither forward nor backward; elementwise is the rest, losses and sums too; copies are what only moves
numbers, anywhere else; unknown is what has no name, but for a product, which is of what reads it.
"""

import collections
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from benchmarks import page, sides, trainings
from benchmarks.instructions import BACKWARD, FORWARD, KINDS, Instruction, instructions
from jaxmini.run.report.quantity import milliseconds, percent
from jaxmini.run.report.table import Column, Row, Table

COLUMNS = (
    Column("what"),
    *(Column(name, is_quantity=True) for name in ("CPU", "instructions", "/ CPU", *KINDS)),
)
# Their instructions are timed themselves.
WRAPPERS = {"while", "call", "conditional"}


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of a net.

    Attributes:
        what: net and batch.
        cpu: seconds a step, all threads, without the profiler.
        instructions: each with the seconds that a step spends in it.
    """

    what: str
    cpu: float
    instructions: Sequence[tuple[Instruction, float]]

    @property
    def seconds(self) -> float:
        """Of all instructions."""
        return sum(seconds for _, seconds in self.instructions)

    def shares(self, of: Callable[[Instruction], str]) -> dict[str, float]:
        """Parts of those seconds by what ``of`` says of an instruction, the largest first."""
        found = collections.Counter()
        for each, seconds in self.instructions:
            found[of(each)] += seconds / self.seconds
        return dict(found.most_common())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and trace the steps, net by net."""
    options = _parser().parse_args(arguments)
    sides.prepare()
    nets, batch, count = trainings.NETS, options.batch, options.steps
    if options.quick:
        nets, batch, count = trainings.QUICK[:1], 8, 1
    asked = [case for case in nets if options.only.lower() in case.name.lower()]
    results = []
    for case in asked:
        results.append(measured(case, batch, count))
        print(_finding(results[-1]), file=sys.stderr, flush=True)
    page.show(shown(results, count), page.given(arguments), write=options.write)
    return 0


def measured(case: trainings.Case, batch: int, count: int) -> Result:
    """So many steps of a net without the profiler, and as many under it."""
    scene = case.scene(case.net, batch)
    program = trainings.compiled(scene, rule=True)
    train = trainings.Training(scene).by(program)
    _run(train, 2)
    began = time.process_time()
    _run(train, count)
    spent = (time.process_time() - began) / count
    timed = durations(lambda: _run(train, count))
    found = told(instructions(program.update.as_text()), timed, count)
    return Result(f"{case.name}, batch {batch}", spent, found)


def told(
    known: Mapping[str, Instruction], timed: Mapping[str, float], count: int
) -> list[tuple[Instruction, float]]:
    """The instructions that ran, each with its seconds a step; not what only runs others.

    Args:
        known: those of the program, by name.
        timed: seconds of events, by name; of others too.
        count: of steps.

    Raises:
        RuntimeError: no event has the name of an instruction.
    """
    names = [name for name, each in known.items() if each.opcode not in WRAPPERS and name in timed]
    if not names:
        raise RuntimeError(
            f"breakdown: the profiler tells of {len(timed)} events and of none of the program's "
            f"{len(known)} instructions; with jax {jax.__version__} they have other names"
        )
    return [(known[name], timed[name] / count) for name in names]


def durations(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of every event that JAX's profiler sees, by name; of instructions that is theirs."""
    options, found = jax.profiler.ProfileOptions(), collections.Counter()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            work()
        (file,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for event in (event for line in plane.lines for event in line.events):
                found[event.name] += 1e-9 * event.duration_ns
    return found


def shown(results: Sequence[Result], count: int) -> page.Page:
    """The page of what was measured."""
    return page.Page(
        name="breakdown",
        title="Where a training step's time goes on a CPU",
        method=f"{page.method(__doc__)} {count} steps.",
        table=Table(COLUMNS, tuple((_row(result),) for result in results)),
        findings=tuple(map(_finding, results)),
    )


def _row(result: Result) -> Row:
    shares = result.shares(lambda each: each.kind)
    times = (milliseconds(1e3 * result.cpu), milliseconds(1e3 * result.seconds))
    parts = (percent(shares.get(kind, 0.0), 1) for kind in KINDS)
    return result.what, *times, f"{result.seconds / result.cpu:.2f}", *parts


def _finding(result: Result) -> str:
    shares = result.shares(
        lambda each: each.formulation if each.kind in (FORWARD, BACKWARD) else ""
    )
    said = [f"{name} {percent(share, 1)}" for name, share in shares.items() if name]
    return f"{result.what}, convolutions by formulation: {', '.join(said) or 'none'}."


def _run(train: Callable[[], object], count: int) -> None:
    for _ in range(count):
        jax.block_until_ready(train())


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("breakdown", __doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="pictures a step")
    parser.add_argument("--steps", type=int, default=5, help="that are traced (default: 5)")
    parser.add_argument("--only", default="", help="what has this in its name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
