"""CPU: training steps with jaxmini's convolutions, against plain XLA's and against PyTorch's.

    python -m benchmarks.cpu

Every way makes the same float32 update of one batch: 32x32 pictures, 10 classes, BatchNorm in training, SGD
with Nesterov's momentum, no augmentation. XLA and jaxmini are one step, compiled without and with
`jaxmini.cpu.install()`, that train one state by turns, for where arrays lie in memory counts too. From one
state their losses must agree to a thousandth, in int8, where a number that is rounded otherwise moves
others, to a hundredth. Both keep freed memory (`jaxmini.cpu.keep_freed_memory`), so "the rule alone" is what
the convolutions are worth. Plain XLA is the same step in a process of its own that has JAX as it is, as
after `JAXMINI_CPU=plain`: what jaxmini.cpu is worth. PyTorch is a net like it, of as many parameters, eager,
in the better of two memory layouts, on all cores, its threads told to sleep while they wait for each other
(`OMP_WAIT_POLICY=passive`). On one thread it needs less CPU time and more wall time; jaxmini's, on all cores,
over that is shown beside it. distill and int8 are jaxmini's own steps, of a student of the named net and a
teacher as in configs/fashion_mnist.py, with their view. The ways take turns; a ratio is the median over the
rounds of jaxmini's CPU time, all threads, over the other's, or of wall time where it says so. Bars are of
CPU time; of wall time a ratio may stand 0.15 above its bar. Memory is what a program needs besides its
arguments; compiling has tracing in it, and no cache.
"""

import contextlib
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from benchmarks import page, pairs, sides, worker
from benchmarks.sides import JAXMINI, PYTORCH, XLA, Way
from benchmarks.trainings import CHAIN, NETS, QUICK, RATE, Case, Program, Training, compiled
from jaxmini.run.report.quantity import MISSING, duration, milliseconds
from jaxmini.run.report.table import Column, Row, Table

MEMORY = 1.2  # times XLA's, the most that is good enough
WALL = 0.15  # what a ratio of wall time may stand above the bar of CPU time
ALONE, PLAIN = "PyTorch, 1 thread", "plain XLA"


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of a case.

    Attributes:
        case, batch: what it was.
        programs: by name, without PyTorch.
        timings: of all ways.
        torch, alone: which of them are PyTorch's, on all cores and on one thread.
    """

    case: Case
    batch: int
    programs: Mapping[str, Program]
    timings: Mapping[str, pairs.Timing]
    torch: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()

    def ratio(self, to: str, side: str = "cpu") -> pairs.Ratio | None:
        """jaxmini's seconds over those of another way; None where that took no part."""
        layouts = {PYTORCH: self.torch, ALONE: self.alone}
        name = sides.fastest(self.timings, layouts[to], side) if to in layouts else to
        return sides.compared(self.timings, JAXMINI, name, side)

    def memory(self) -> float:
        """jaxmini's temporary memory over XLA's."""
        return self.programs[JAXMINI].memory / self.programs[XLA].memory

    def judged(self, side: str = "cpu") -> tuple[tuple[str, pairs.Ratio, float], ...]:
        """The other way, the ratio to it and its bar, for what was measured."""
        bars = ((PYTORCH, self.case.torch), (PLAIN, self.case.xla))
        more = WALL if side == "wall" else 0.0
        found = ((to, self.ratio(to, side), bar) for to, bar in bars)
        return tuple((to, ratio, bar + more) for to, ratio, bar in found if ratio is not None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the steps; 1 where a ratio is above its bar and all was measured."""
    options = _parser().parse_args(arguments)
    if options.plain:
        return plain(options.plain, *options.batch)
    sides.prepare()
    rounds = 2 if options.quick else options.rounds
    results = []
    for case, batch in cases(options):
        results.append(measured(case, batch, rounds))
        print(_finding(results[-1]), file=sys.stderr, flush=True)
    page.show(shown(results, rounds), page.given(arguments), write=options.write)
    return 0 if options.quick or kept(results) else 1


def cases(options: page.argparse.Namespace) -> list[tuple[Case, int]]:
    """What is asked for: each case and its number of pictures a batch."""
    if options.quick:
        found = [(case, 8) for case in QUICK]
    else:
        found = [(case, batch) for case in NETS for batch in options.batch]
        found += [(case, min(options.batch)) for case in CHAIN]
    return [each for each in found if options.only.lower() in each[0].name.lower()]


def measured(case: Case, batch: int, rounds: int) -> Result:
    """All ways of a case, by turns.

    Raises:
        RuntimeError: the ways do not train the same.
    """
    scene = case.scene(case.net, batch)
    programs = {name: compiled(scene, rule=name == JAXMINI) for name in (XLA, JAXMINI)}
    training = Training(scene)
    first = {name: training.loss(program) for name, program in programs.items()}
    if not np.isclose(first[JAXMINI], first[XLA], rtol=case.agree, atol=0.0):
        raise RuntimeError(f"{case.name}: from one state the losses are {first}")
    together, alone, torch_nets = {}, {}, sides.pytorch()
    if torch_nets is not None and case.torch is not None:
        size = sum(leaf.size for leaf in jax.tree.leaves(scene.state.params))
        trainings = torch_nets.trainings(case.net, scene.batch, RATE, size=size)
        together = torch_nets.on_threads(trainings, torch_nets.cores())
        alone = torch_nets.on_threads(trainings, 1)
    # Turns go there and back: so either of the two follows itself as often as it follows PyTorch.
    ways: dict[str, Way] = {XLA: training.by(programs[XLA]), **together, **alone}
    with started(case, batch) as ask:
        ways |= {PLAIN: ask, JAXMINI: training.by(programs[JAXMINI])}
        timings = sides.timed(ways, rounds, least=0.3)
    return Result(case, batch, programs, timings, tuple(together), tuple(alone))


@contextlib.contextmanager
def started(case: Case, batch: int) -> Iterator[Callable[[], pairs.Elsewhere]]:
    """A process that does what ``plain`` does: what makes one step there."""
    arguments = ["-m", "benchmarks.cpu", "--plain", case.name, "--batch", str(batch)]
    with worker.started(arguments) as ask:

        def train() -> pairs.Elsewhere:
            turn = ask()
            return pairs.Elsewhere(turn.cpu, turn.wall)

        yield train


def plain(name: str, batch: int) -> int:
    """Serve steps of a case in a process that has JAX as it is."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    (case,) = (case for case in (*NETS, *CHAIN, *QUICK) if case.name == name)
    scene = case.scene(case.net, batch)
    return worker.serve(Training(scene).by(compiled(scene, rule=False)), 1)


COLUMNS = (
    Column("what"),
    *(
        Column(name, is_quantity=True)
        for name in (
            *("batch", "CPU", "wall", "/ PyTorch", "bar", "wall / PyTorch", "/ PyTorch, 1 thread"),
            *("/ plain XLA", "bar", "wall / plain XLA", "the rule alone"),
            *("memory / XLA", "compile", "compile, XLA"),
        )
    ),
)


def shown(results: Sequence[Result], rounds: int) -> page.Page:
    """The page of what was measured."""
    names = dict.fromkeys(result.case.name for result in results)
    groups = (tuple(_row(r) for r in results if r.case.name == name) for name in names)
    return page.Page(
        name="cpu",
        title="What a training step costs on a CPU",
        method=f"{page.method(__doc__)} {rounds} rounds.",
        table=Table(COLUMNS, tuple(groups)),
        findings=(
            *map(_finding, results),
            *(wall for result in results for wall in _wall(result)),
            *_memory(results),
            *sides.absent(),
        ),
    )


def kept(results: Sequence[Result]) -> bool:
    """Whether no ratio is above its bar."""
    judged = [j for each in results for side in ("cpu", "wall") for j in each.judged(side)]
    times = all(ratio.median <= bar for _, ratio, bar in judged)
    return times and all(each.memory() <= MEMORY for each in results)


def _row(result: Result) -> Row:
    own, bars = result.timings[JAXMINI], {to: bar for to, _, bar in result.judged()}
    cells = [
        milliseconds(1e3 * statistics.median(own.cpu)),
        milliseconds(1e3 * statistics.median(own.wall)),
    ]
    for to, also in ((PYTORCH, ALONE), (PLAIN, XLA)):
        bar = f"{bars[to]:.2f}" if to in bars else MISSING
        cells += [sides.cell(result.ratio(to)), bar, sides.cell(result.ratio(to, "wall"))]
        cells += [sides.cell(result.ratio(also))]
    rule, plain = result.programs[JAXMINI], result.programs[XLA]
    cells += [f"{result.memory():.2f}", duration(rule.seconds), duration(plain.seconds)]
    return result.case.name, str(result.batch), *cells


def _finding(result: Result) -> str:
    names = {PYTORCH: f"PyTorch ({sides.fastest(result.timings, result.torch)})", PLAIN: PLAIN}
    said = [
        f"{ratio.median:.3f} of {names[to]}, middle half {ratio.low:.3f} to {ratio.high:.3f}: "
        + _judged(ratio.median, bar)
        for to, ratio, bar in result.judged()
    ]
    alone = result.ratio(XLA)
    said.append(f"the rule alone {alone.median:.3f}, {alone.low:.3f} to {alone.high:.3f}")
    return f"{result.case.name}, batch {result.batch}: {'; '.join(said)}."


def _wall(result: Result) -> tuple[str, ...]:
    """The findings for wall time beyond what it may be."""
    return tuple(
        f"{result.case.name}, batch {result.batch}: wall time is {ratio.median:.3f} of {to}'s: "
        f"bar and {WALL} missed."
        for to, ratio, bar in result.judged("wall")
        if ratio.median > bar
    )


def _memory(results: Sequence[Result]) -> tuple[str, ...]:
    """The finding for the highest ratio of memory; none where nothing was measured."""
    if not results:
        return ()
    most = max(results, key=Result.memory)
    said = f"at most {most.memory():.2f} times XLA's ({most.case.name}, batch {most.batch})"
    return (f"Temporary memory is {said}: {_judged(most.memory(), MEMORY)}.",)


def _judged(ratio: float, bar: float) -> str:
    return f"bar {bar:.2f} {'met' if ratio <= bar else 'missed'}"


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("cpu", __doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 128], help="pictures a step")
    parser.add_argument("--plain", metavar="CASE", help="be the process that has JAX as it is")
    sides.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
