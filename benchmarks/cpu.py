"""CPU: training steps with jaxmini's convolutions, against plain XLA's and against PyTorch's.

    python -m benchmarks.cpu

Every way makes the same float32 update of one batch: 32x32 pictures, 10 classes, BatchNorm in training, SGD
with Nesterov's momentum, no augmentation. XLA and jaxmini are one step, compiled without and with
`jaxmini.cpu.install()`, that train one state by turns, for where arrays lie in memory counts too. From one
state their losses must agree to a thousandth, in int8, where a number that is rounded otherwise moves
others, to a hundredth. PyTorch is a net like it, of as many parameters, eager, in the better of two memory
layouts, on all cores, its threads told to sleep while they wait for each other (`OMP_WAIT_POLICY=passive`).
On one thread it needs less CPU time and more wall time; jaxmini's, on all cores, over that is shown beside
it. distill and int8 are jaxmini's own steps, of a student of the named net and a teacher as in
configs/fashion_mnist.py, with their view. All keep freed memory (`jaxmini.cpu.keep_freed_memory`). The ways
take turns; a ratio is the median over the rounds of jaxmini's CPU time, all threads, over the other's, or
of wall time where it says so. Memory is what a program needs besides its arguments; compiling has tracing
in it, and no cache.
"""

import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import page, pairs, sides, step_overhead
from benchmarks.sides import JAXMINI, PYTORCH, XLA, Way
from jaxmini import data, losses, models, steps
from jaxmini.compress import quantize
from jaxmini.model import Variables, from_linen
from jaxmini.models import mobilenet
from jaxmini.run.report.quantity import MISSING, duration, milliseconds
from jaxmini.run.report.table import Column, Row, Table
from jaxmini.run.stage import Distill, Stage, Supervised
from jaxmini.state import Array, PyTree, State
from jaxmini.steps import placement
from jaxmini.steps.update import Step

PICTURE = (32, 32, 3)
RATE = 1e-3  # so small that many updates of one batch leave every number of a usual size
MEMORY = 1.2  # times XLA's, the most that is good enough
NORMALIZATION = step_overhead.NORMALIZATION
ALONE = "PyTorch, 1 thread"


@dataclasses.dataclass(frozen=True)
class Scene:
    """One training.

    Attributes:
        step: the update.
        state, frozen, batch: its first arguments.
    """

    step: Step
    state: State
    frozen: PyTree
    batch: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A training and its bars.

    Attributes:
        name: for the table.
        net: what is trained.
        scene: the training of that net with that many pictures a batch.
        xla, torch: the highest CPU ratios that are good enough; without ``torch``, PyTorch takes no part.
        agree: how far the first losses may be apart, as a part of them.
    """

    name: str
    net: nn.Module
    scene: Callable[[nn.Module, int], Scene]
    xla: float
    torch: float | None = None
    agree: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step.

    Attributes:
        update: the state, which is given away, and what else the step reads -> the next state, the metrics.
        seconds: of tracing and compiling.
        memory: bytes besides arguments and results.
    """

    update: Callable[..., tuple[State, dict[str, Array]]]
    seconds: float
    memory: int


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

    def judged(self) -> tuple[tuple[str, pairs.Ratio, float], ...]:
        """The other way, the ratio to it and its bar, for what was measured."""
        bars = ((PYTORCH, self.case.torch), (XLA, self.case.xla))
        found = ((to, self.ratio(to), bar) for to, bar in bars)
        return tuple(each for each in found if each[1] is not None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the steps; 1 where a ratio is above its bar and all was measured."""
    options = _parser().parse_args(arguments)
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


def supervised(net: nn.Module, batch: int) -> Scene:
    """A net on labels, its pictures as they are."""
    rng, model, optimizer = np.random.default_rng(0), from_linen(net), _optimizer()
    image = rng.normal(size=(batch, *PICTURE)).astype(np.float32)
    label = rng.integers(0, 10, batch).astype(np.int32)
    variables = jax.jit(model.init)(jax.random.key(0), image[:1])
    step = steps.supervised(model, losses.cross_entropy(), optimizer)
    state = steps.start(optimizer, jax.random.key(1), variables)
    return Scene(step, state, {}, {"image": image, "label": label})


def distill(net: nn.Module, batch: int, *, teacher: nn.Module) -> Scene:
    """A student towards a teacher."""
    stage = _student(net, batch, teacher)
    return _scene(stage, _init(stage))


def int8(net: nn.Module, batch: int, *, teacher: nn.Module) -> Scene:
    """The same in the integers of its file."""
    student = _student(net, batch, teacher)
    stage = dataclasses.replace(
        student, name="int8", model=None, start=student, quantize=quantize.int8()
    )
    images = [NORMALIZATION(jnp.asarray(_batch(stage)["image"]))]
    network = stage.network(NORMALIZATION)
    return _scene(stage, quantize.calibrate(network, _init(student), images))


TEACHER = models.small_resnet(10, stem_width=32, stem_stride=2, widths=(32, 64, 128))
V2 = models.mobilenet_v2(10, width=0.5, small_inputs=1)
V4 = models.mobilenet_v4_conv_s(10, width=0.5, small_inputs=1)
R16, R64 = (models.resnet18(10, width=width, stem="cifar") for width in (16, 64))
VIT = models.vit_tiny(10, patch=4)
NETS = (
    Case("MobileNetV2, width 0.5", V2, supervised, xla=0.16, torch=1.15),
    Case("MobileNetV4-Conv-S, width 0.5", V4, supervised, xla=0.25, torch=1.2),
    Case("ResNet-18, width 64", R64, supervised, xla=1.0, torch=1.4),
    Case("ResNet-18, width 16", R16, supervised, xla=1.0, torch=1.4),
    Case("ViT-Ti, patch 4", VIT, supervised, xla=1.0, torch=1.1),
)
CHAIN = (
    Case("distill, MobileNetV4-Conv-S", V4, functools.partial(distill, teacher=TEACHER), 0.3),
    Case("int8, MobileNetV4-Conv-S", V4, functools.partial(int8, teacher=TEACHER), 0.3, agree=1e-2),
)

TINY = mobilenet.MobileNet((mobilenet.Conv(8, stride=2), mobilenet.Inverted(8, 2, stride=2)), 10)
QUICK = (
    Case("supervised, tiny", TINY, supervised, xla=1.0, torch=1.0),
    Case("int8, tiny", TINY, functools.partial(int8, teacher=TINY), xla=1.0),
)


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
    timings = sides.timed(ways | {JAXMINI: training.by(programs[JAXMINI])}, rounds, least=0.3)
    return Result(case, batch, programs, timings, tuple(together), tuple(alone))


def compiled(scene: Scene, *, rule: bool) -> Program:
    """The step as XLA has it, or under jaxmini's rule.

    Raises:
        RuntimeError: this version of jax does not take the rule.
    """
    sides.switch(rule)
    on = placement.jit(scene.step, jax.devices()[:1])
    began = time.perf_counter()
    program = on.step.lower(scene.state, scene.frozen, scene.batch).compile()
    seconds = time.perf_counter() - began
    return Program(program, seconds, program.memory_analysis().temp_size_in_bytes)


class Training:
    """One state that programs update by turns."""

    def __init__(self, scene: Scene) -> None:
        on = placement.jit(scene.step, jax.devices()[:1])
        self._state, self._frozen = on.replicate(scene.state), on.replicate(scene.frozen)
        self._batch = scene.batch

    def by(self, program: Program) -> Way:
        """What makes one update by a program from where the last one ended; returns the metrics."""

        def train() -> dict[str, Array]:
            self._state, metrics = program.update(self._state, self._frozen, self._batch)
            return metrics

        return train

    def loss(self, program: Program) -> float:
        """That of an update which is not kept."""
        state = jax.tree.map(jnp.copy, self._state)
        return float(program.update(state, self._frozen, self._batch)[1]["loss"])


COLUMNS = (
    Column("what"),
    *(
        Column(name, is_quantity=True)
        for name in (
            *("batch", "CPU", "wall", "/ PyTorch", "bar", "wall / PyTorch", "/ PyTorch, 1 thread"),
            *("/ XLA", "bar", "wall / XLA", "memory / XLA", "compile", "compile, XLA"),
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
        findings=(*map(_finding, results), *_memory(results), *sides.absent()),
    )


def kept(results: Sequence[Result]) -> bool:
    """Whether no ratio is above its bar."""
    times = all(ratio.median <= bar for each in results for _, ratio, bar in each.judged())
    return times and all(each.memory() <= MEMORY for each in results)


def _row(result: Result) -> Row:
    own, bars = result.timings[JAXMINI], {to: bar for to, _, bar in result.judged()}
    cells = [
        milliseconds(1e3 * statistics.median(own.cpu)),
        milliseconds(1e3 * statistics.median(own.wall)),
    ]
    for to in (PYTORCH, XLA):
        bar = f"{bars[to]:.2f}" if to in bars else MISSING
        cells += [sides.cell(result.ratio(to)), bar, sides.cell(result.ratio(to, "wall"))]
        cells += [sides.cell(result.ratio(ALONE))] if to == PYTORCH else []
    rule, plain = result.programs[JAXMINI], result.programs[XLA]
    cells += [f"{result.memory():.2f}", duration(rule.seconds), duration(plain.seconds)]
    return result.case.name, str(result.batch), *cells


def _finding(result: Result) -> str:
    names = {PYTORCH: f"PyTorch ({sides.fastest(result.timings, result.torch)})", XLA: "XLA"}
    said = [
        f"{ratio.median:.3f} of {names[to]}, middle half {ratio.low:.3f} to {ratio.high:.3f}: "
        + _judged(ratio.median, bar)
        for to, ratio, bar in result.judged()
    ]
    return f"{result.case.name}, batch {result.batch}: {'; '.join(said)}."


def _memory(results: Sequence[Result]) -> tuple[str, ...]:
    """The finding for the highest ratio of memory; none where nothing was measured."""
    if not results:
        return ()
    most = max(results, key=Result.memory)
    said = f"at most {most.memory():.2f} times XLA's ({most.case.name}, batch {most.batch})"
    return (f"Temporary memory is {said}: {_judged(most.memory(), MEMORY)}.",)


def _judged(ratio: float, bar: float) -> str:
    return f"bar {bar:.2f} {'met' if ratio <= bar else 'missed'}"


def _student(net: nn.Module, batch: int, teacher: nn.Module) -> Distill:
    shape = dataclasses.replace(step_overhead.SMALL, batch_size=batch, picture=PICTURE)
    links = {"data": step_overhead.pictures(shape), "view": data.shift(1), "batch_size": batch}
    taught_by = Supervised(name="teacher", model=teacher, **links)
    loss = losses.kl(step_overhead.TEMPERATURE)
    return Distill(name="distill", model=net, teacher=taught_by, loss=loss, **links)


def _scene(stage: Distill, variables: Variables) -> Scene:
    step = stage.step(stage.network(NORMALIZATION), _optimizer(), NORMALIZATION)
    state = steps.start(_optimizer(), jax.random.key(1), variables)
    return Scene(step, state, _init(stage.teacher, seed=1), _batch(stage))


def _init(stage: Stage, *, seed: int = 0) -> Variables:
    images = jnp.zeros((1, *PICTURE), jnp.float32)
    return jax.jit(stage.network(NORMALIZATION).init)(jax.random.key(seed), images)


def _batch(stage: Stage) -> dict[str, np.ndarray]:
    return data.batch_at(stage.data.load().train, stage.batch_size, 0, 0)


def _optimizer():
    return steps.sgd(RATE, warmup=0.0)(1000)


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("cpu", __doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 128], help="pictures a step")
    sides.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
