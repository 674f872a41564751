"""Step overhead: jaxmini's placed steps against the same training written out by hand (``bare``).

    python -m benchmarks.step_overhead

Both sides have the same linen net, view of each example, loss, optimizer and metrics, one device, a donated
state and batches that come from the host. A step under `jit` is compared with one by hand under
`jit`, one under `pmap` with one under `pmap`. The bar is a median CPU ratio of 1.03.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import bare, page, pairs
from jaxmini import data, losses, models, steps
from jaxmini.compress import quantize
from jaxmini.model import Variables, with_head
from jaxmini.run.report.table import Table
from jaxmini.run.stage import Contrastive, Distill, Stage, Supervised
from jaxmini.state import Array, PyTree
from jaxmini.steps.placement import PLACEMENTS

BAR = 1.03
TEMPERATURE = 2.0
NORMALIZATION = data.Normalization(0.5, 0.25)
BATCHES = 8


@dataclasses.dataclass(frozen=True)
class Shape:
    """Pictures, and nets for them.

    Attributes:
        name: for the table.
        picture: (height, width, channels).
        batch_size: pictures a step.
        steps: steps a turn.
        student, teacher: stem, then blocks: (width, stride) each.
    """

    name: str
    picture: tuple[int, int, int]
    batch_size: int
    steps: int
    student: tuple[tuple[int, int], ...]
    teacher: tuple[tuple[int, int], ...]


DIGITS = Shape("8 px", (8, 8, 1), 64, 24, ((8, 1), (16, 2), (32, 2)), ((16, 1), (32, 2), (64, 2)))
SMALL = Shape(
    "32 px",
    (32, 32, 3),
    64,
    4,
    ((16, 2), (16, 1), (32, 2), (48, 2)),
    ((32, 2), (32, 1), (64, 2), (128, 2)),
)
TINY = Shape("8 px, tiny", (8, 8, 1), 8, 1, ((4, 2), (4, 1)), ((4, 2), (8, 2)))


@dataclasses.dataclass(frozen=True)
class Scene:
    """One training, both ways.

    Attributes:
        stage: jaxmini's.
        variables: to start from.
        frozen: a teacher's variables.
        bare: the step written out by hand.
        rest: what changes in it besides params, as it starts.
    """

    stage: Stage
    variables: Variables
    frozen: PyTree
    bare: bare.Step
    rest: PyTree


def main(arguments: Sequence[str] | None = None) -> int:
    """Time every kind of step in every shape; 1 where a ratio is above the bar and all was measured."""
    options = _parser().parse_args(arguments)
    shapes, kinds = ((TINY,), KINDS[1:2]) if options.quick else ((DIGITS, SMALL), KINDS)
    rounds = 2 if options.quick else options.rounds
    groups, ratios = [], []
    for shape in shapes:
        for kind in kinds:
            timings = pairs.alternate(ways(kind(shape), shape), rounds=rounds)
            timings = {how: _a_step(timing, shape.steps) for how, timing in timings.items()}
            what = f"{kind.__name__}, {shape.name}"
            for name in PLACEMENTS:
                pair = {how: timing for how, timing in timings.items() if how.endswith(name)}
                groups.append(pairs.rows(what, pair))
                written, ours = pair.values()
                ratios.append(pairs.ratio(ours.cpu, written.cpu).median)
            print(f"{what}: {ratios[-2]:.3f} {ratios[-1]:.3f}", file=sys.stderr)
    kept = sum(ratio <= BAR for ratio in ratios)
    shown = page.Page(
        name="step_overhead",
        title="What jaxmini's steps cost over the same training written by hand",
        method=f"{page.method(__doc__)} {rounds} rounds; CPU of all threads.",
        table=Table(pairs.COLUMNS, tuple(groups)),
        findings=(f"{kept} of {len(ratios)} median CPU ratios are at most {BAR}.",),
    )
    page.show(shown, page.given(arguments), write=options.write)
    return 0 if options.quick or kept == len(ratios) else 1


def contrastive(shape: Shape) -> Scene:
    """Two views of each picture."""
    body, projector = net(shape.teacher, None), models.projection_head(32, hidden=64)
    view = data.small_pictures(area=(0.6, 1.0), noise=0.1)
    stage = Contrastive(
        name="contrastive",
        model=with_head(body, projector),
        loss=losses.nt_xent(TEMPERATURE),
        **_common(shape, view),
    )
    written = bare.contrastive(bare.Headed(body, projector), _seen(view), _optimizer(), TEMPERATURE)
    variables = _init(stage, shape)
    return Scene(stage, variables, {}, written, variables["batch_stats"])


def supervised(shape: Shape) -> Scene:
    """The teacher's net on labels."""
    stage = _teacher(shape, data.shift(1))
    variables = _init(stage, shape)
    written = bare.supervised(stage.model, _seen(stage.view), _optimizer())
    return Scene(stage, variables, {}, written, variables["batch_stats"])


def distill(shape: Shape) -> Scene:
    """The student's net towards the teacher's."""
    stage = _student(shape, data.shift(1))
    variables, teacher = _init(stage, shape), stage.teacher
    written = bare.distill(stage.model, teacher.model, _seen(stage.view), _optimizer(), TEMPERATURE)
    return Scene(stage, variables, _init(teacher, shape), written, variables["batch_stats"])


def int8(shape: Shape) -> Scene:
    """The same in the integers of its file."""
    student = _student(shape, data.shift(1))
    links = {"start": student, "teacher": student.teacher, "quantize": quantize.int8()}
    stage = Distill(name="int8", loss=student.loss, **links, **_common(shape, student.view))
    network, floats = stage.network(NORMALIZATION), _init(student, shape)
    variables = quantize.calibrate(network, floats, [_images(shape)])
    plan = quantize.make_plan(network, variables, _images(shape))
    written = bare.distill_int8(
        floats["batch_stats"],
        tuple(stride for _, stride in shape.student),
        student.teacher.model,
        _seen(stage.view),
        _optimizer(),
        TEMPERATURE,
    )
    ranges = tuple(variables["quant"][site] for site in plan.observed)
    return Scene(stage, variables, _init(student.teacher, shape), written, ranges)


KINDS = (contrastive, supervised, distill, int8)


def ways(scene: Scene, shape: Shape) -> dict[str, Callable[[], object]]:
    """A turn of each way: ``shape.steps`` updates that go on from one turn to the next."""
    return {
        f"{who}, {name}": way(scene, shape, name)
        for name in PLACEMENTS
        for who, way in (("by hand", by_hand), ("jaxmini", placed))
    }


def by_hand(scene: Scene, shape: Shape, placement: str) -> Callable[[], Array]:
    """A turn of the step written out by hand; returns the last loss."""
    step = {"jit": bare.jit, "pmap": bare.pmap}[placement](scene.bare)
    params = scene.variables["params"]
    state = (params, scene.rest, _optimizer().init(params), jax.random.key(1))
    state = jax.tree.map(jnp.copy, state)  # the step takes its memory
    batches = _batches(shape)

    def turn() -> Array:
        nonlocal state
        for number in range(shape.steps):
            batch = batches[number % len(batches)]
            state, metrics = step(state, scene.frozen, batch)
        return metrics["loss"]

    return turn


def placed(scene: Scene, shape: Shape, placement: str) -> Callable[[], Array]:
    """A turn of jaxmini's step on one device; returns the last loss."""
    step = scene.stage.step(scene.stage.network(NORMALIZATION), _optimizer(), NORMALIZATION)
    on = PLACEMENTS[placement](step, jax.devices()[:1])
    state = on.replicate(steps.start(_optimizer(), jax.random.key(1), scene.variables))
    frozen, batches = on.replicate(scene.frozen), _batches(shape)

    def turn() -> Array:
        nonlocal state
        for number in range(shape.steps):
            state, metrics = on.step(state, frozen, on.shard(batches[number % len(batches)]))
        return metrics["loss"]

    return turn


def net(table: tuple[tuple[int, int], ...], num_classes: int | None) -> nn.Module:
    """A small residual net of a stem and blocks, (width, stride) each."""
    (stem_width, stem_stride), *blocks = table
    widths, strides = zip(*blocks, strict=True)
    return models.small_resnet(
        num_classes, stem_width=stem_width, stem_stride=stem_stride, widths=widths, strides=strides
    )


def pictures(shape: Shape) -> data.arrays:
    """Random pictures: what is in them has no influence on the time."""
    rng = np.random.default_rng(0)
    count = BATCHES * shape.batch_size
    image = rng.integers(0, 256, (count, *shape.picture), np.uint8)
    return data.arrays(image, rng.integers(0, 10, count))


def _teacher(shape: Shape, view: data.View) -> Supervised:
    return Supervised(name="supervised", model=net(shape.teacher, 10), **_common(shape, view))


def _student(shape: Shape, view: data.View) -> Distill:
    return Distill(
        name="distill",
        model=net(shape.student, 10),
        teacher=_teacher(shape, view),
        loss=losses.kl(TEMPERATURE),
        **_common(shape, view),
    )


def _common(shape: Shape, view: data.View) -> dict[str, Any]:
    return {"data": pictures(shape), "view": view, "batch_size": shape.batch_size}


def _seen(view: data.View) -> bare.Pictures:
    return bare.Pictures(view, NORMALIZATION.mean, NORMALIZATION.std)


def _optimizer() -> optax.GradientTransformation:
    return steps.sgd(0.02, warmup=0.0)(1000)


def _init(stage: Stage, shape: Shape) -> Variables:
    return jax.jit(stage.network(NORMALIZATION).init)(jax.random.key(0), _images(shape)[:1])


def _images(shape: Shape) -> Array:
    return NORMALIZATION(jnp.asarray(pictures(shape).load().train.image[: shape.batch_size]))


def _batches(shape: Shape) -> list[dict[str, np.ndarray]]:
    split = pictures(shape).load().train
    return [data.batch_at(split, shape.batch_size, 0, step) for step in range(BATCHES)]


def _a_step(timing: pairs.Timing, count: int) -> pairs.Timing:
    return pairs.Timing(*(tuple(s / count for s in turn) for turn in (timing.cpu, timing.wall)))


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("step_overhead", __doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns each way has (default: 15)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
