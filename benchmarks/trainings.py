"""Trainings: the steps that the benchmarks of a CPU take, of nets on labels and of the chain.

Pictures of 32x32, 10 classes, SGD with Nesterov's momentum.
"""

import dataclasses
import functools
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import sides, step_overhead
from benchmarks.sides import Way
from jaxmini import data, losses, models, steps
from jaxmini.compress import quantize
from jaxmini.model import Variables, from_linen
from jaxmini.models import mobilenet
from jaxmini.run.stage import Distill, Stage, Supervised
from jaxmini.state import Array, PyTree, State
from jaxmini.steps import placement
from jaxmini.steps.update import Step

PICTURE = (32, 32, 3)
RATE = 1e-3  # so small that many updates of one batch leave every number of a usual size
NORMALIZATION = step_overhead.NORMALIZATION


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
