"""Step overhead: jaxmini's placed steps against the same training written out by hand (``bare``).

    python -m benchmarks.step_overhead

Both sides have the same linen net, view, loss and optimizer, one device, a donated state and batches that
come from the host; jaxmini's also returns its metrics. The bar is a median CPU ratio of 1.03.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np

from benchmarks import bare, page, pairs
from jaxmini import data, losses, models, steps
from jaxmini.compress import quantize
from jaxmini.model import Model, Variables, from_linen, with_head
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
    "32 px", (32, 32, 3), 64, 4, ((16, 2), (16, 1), (32, 2), (48, 2)), ((32, 2), (32, 1), (64, 2), (128, 2))
)
TINY = Shape("8 px, tiny", (8, 8, 1), 8, 1, ((4, 2), (4, 1)), ((4, 2), (8, 2)))


@dataclasses.dataclass(frozen=True)
class Scene:
    """One training, both ways.

    Attributes:
        name: of what is trained.
        stage: jaxmini's.
        model: that the stage trains.
        variables: to start from.
        frozen: a teacher's variables.
        bare: the step written out by hand.
        rest: what changes in it besides params, as it starts.
    """

    name: str
    stage: Stage
    model: Model
    variables: Variables
    frozen: PyTree
    bare: bare.Step
    rest: PyTree

    @property
    def optimizer(self) -> steps.sgd:
        return self.stage.optimizer(1000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time every kind of step in every shape; 1 where a ratio is above the bar and all was measured."""
    options = _parser().parse_args(arguments)
    shapes = (TINY,) if options.quick else (DIGITS, SMALL)
    rounds = 2 if options.quick else options.rounds
    groups, ratios = [], []
    for shape in shapes:
        for scene in scenes(shape):
            timings = pairs.alternate(ways(scene, shape), rounds=rounds, calls=1)
            timings = {how: _a_step(timing, shape.steps) for how, timing in timings.items()}
            groups.append(pairs.rows(scene.name, timings))
            written, *placed = timings.values()
            ratios += [pairs.ratio(timing.cpu, written.cpu).median for timing in placed]
            print(f"{scene.name}: {ratios[-2]:.3f} {ratios[-1]:.3f}", file=sys.stderr, flush=True)
    kept = sum(ratio <= BAR for ratio in ratios)
    shown = page.Page(
        name="step_overhead",
        title="What jaxmini's steps cost over the same training written by hand",
        method=__doc__.split("\n\n")[2].replace("\n", " ") + f" {rounds} rounds, CPU of all threads.",
        table=Table(pairs.COLUMNS, tuple(groups)),
        findings=(f"{kept} of {len(ratios)} median CPU ratios are at most {BAR}.",),
    )
    page.show(shown, page.given(arguments), write=options.write)
    return 0 if options.quick or kept == len(ratios) else 1


def scenes(shape: Shape, view: data.View | None = None) -> list[Scene]:
    """The four kinds of step in a shape.

    Args:
        shape: of pictures and nets.
        view: instead of each stage's own augmentation.
    """
    source = pictures(shape)
    common = {"data": source, "optimizer": steps.sgd(0.01), "batch_size": shape.batch_size}
    crop = view or data.small_pictures(area=(0.6, 1.0), noise=0.1)
    common_shift = common | {"view": view or data.shift(1)}
    student, teacher = net(shape.student, 10), net(shape.teacher, 10)
    body, projector = net(shape.teacher, None), models.projection_head(32, hidden=64)

    pretrain = Contrastive(
        name="contrastive",
        model=with_head(body, projector),
        loss=losses.nt_xent(TEMPERATURE),
        **common | {"view": crop},
    )
    teach = Supervised(name="supervised", model=teacher, **common_shift)
    distil = Distill(
        name="distill", model=student, teacher=teach, loss=losses.kl(TEMPERATURE), **common_shift
    )
    int8 = Distill(
        name="int8",
        start=distil,
        teacher=teach,
        quantize=quantize.int8(),
        loss=losses.kl(TEMPERATURE),
        **common_shift,
    )

    images = NORMALIZATION(source.load().train.image)
    frozen = _init(teach, images)
    start = _init(distil, images)
    calibrated = quantize.calibrate(int8.network(NORMALIZATION), start, [images])
    seen = functools.partial(bare.Pictures, mean=NORMALIZATION.mean, std=NORMALIZATION.std)
    optimizer, strides = distil.optimizer(1000), tuple(stride for _, stride in shape.student)
    plan = quantize.make_plan(from_linen(student), start, images[: shape.batch_size])
    return [
        _scene(
            shape,
            pretrain,
            _init(pretrain, images),
            {},
            bare.contrastive(bare.Headed(body, projector), seen(crop), optimizer, TEMPERATURE),
        ),
        _scene(shape, teach, frozen, {}, bare.supervised(teacher, seen(teach.view), optimizer)),
        _scene(
            shape,
            distil,
            start,
            frozen,
            bare.distill(student, teacher, seen(distil.view), optimizer, TEMPERATURE),
        ),
        dataclasses.replace(
            _scene(
                shape,
                int8,
                calibrated,
                frozen,
                bare.distill_int8(
                    start["batch_stats"], strides, teacher, seen(int8.view), optimizer, TEMPERATURE
                ),
            ),
            rest=tuple(calibrated["quant"][site] for site in plan.observed if site != "input"),
        ),
    ]


def ways(scene: Scene, shape: Shape) -> dict[str, Callable[[], object]]:
    """A turn of each way: ``shape.steps`` updates that go on from one turn to the next."""
    return {
        "by hand, jit": by_hand(scene, shape),
        **{f"jaxmini, {name}": placed(scene, shape, name) for name in PLACEMENTS},
    }


def by_hand(scene: Scene, shape: Shape) -> Callable[[], Array]:
    """A turn of the step written out by hand; returns the last loss."""
    params = scene.variables["params"]
    state = (params, scene.rest, scene.optimizer.init(params), jax.random.key(1))
    state = jax.tree.map(jax.numpy.copy, state)  # the step takes its memory
    batches = _batches(shape)

    def turn() -> Array:
        nonlocal state
        for number in range(shape.steps):
            batch = batches[number % len(batches)]
            state, loss = scene.bare(state, scene.frozen, {k: batch[k] for k in ("image", "label")})
        return loss

    return turn


def placed(scene: Scene, shape: Shape, placement: str) -> Callable[[], Array]:
    """A turn of jaxmini's step on one device; returns the last loss."""
    step = scene.stage.step(scene.model, scene.optimizer, NORMALIZATION)
    on = PLACEMENTS[placement](step, jax.devices()[:1])
    state = on.replicate(steps.start(scene.optimizer, jax.random.key(1), scene.variables))
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


def _scene(
    shape: Shape, stage: Stage, variables: Variables, frozen: PyTree, written: bare.Step
) -> Scene:
    model = stage.network(NORMALIZATION)
    rest = variables["batch_stats"]
    return Scene(f"{stage.name}, {shape.name}", stage, model, variables, frozen, written, rest)


def _init(stage: Stage, images: Array) -> Variables:
    return jax.jit(stage.network(NORMALIZATION).init)(jax.random.key(0), images[:1])


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
