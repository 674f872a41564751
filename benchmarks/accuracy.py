"""Accuracy: what a trained net loses on its way to an integer file, by how it is quantized.

    python -m benchmarks.accuracy

Every net trains in float and becomes integer files: by calibration on 512 training pictures (PTQ), the
extremes of their batches averaged, with one scale a channel and, to compare, one a kernel, or with the
extremes of all of them; by quantization-aware distillation from its own float weights (QAT), at 8 bits,
and with kernels of 4 bits that a file stores as int4 (W4A8). No kernel is left out. All accuracies are
those of the .tflite files' own answers on the test pictures, after the last step, of one seed; the float
file's is what the others are compared with. CIFAR-10 offline is a subset, which the table says. Stopped,
it goes on where it was.

That one scale a kernel ruins such nets is known of long trainings, which leave the channels of a kernel far
apart (Nagel et al., 2019). These are short. Where every rectifier is a plain ReLU the channels can be taken
apart, and the float network stays what it is: a layer's are divided by factors, its reader's multiplied. That
too is calibrated: with one scale a channel, with one a kernel, and so after `quantize.equalize()`.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import flax.linen as nn
import numpy as np

from benchmarks import page
from jaxmini import data, losses, models
from jaxmini.compress import quantize
from jaxmini.data import Source, View
from jaxmini.model import Model, Variables
from jaxmini.recipe import Distill, Export, Layout, PostTraining, Recipe, Supervised
from jaxmini.run import chain, process
from jaxmini.run.report.content import Report
from jaxmini.run.report.quantity import MISSING, percent, points, short
from jaxmini.run.report.table import Column, Row, Table
from jaxmini.state import Array
from jaxmini.steps import adamw, sgd

FLOAT, PTQ, QAT, W4A8, PER_TENSOR = "float", "PTQ", "QAT", "W4A8", "PTQ, one scale a kernel"
MIN_MAX = "PTQ, extremes of all pictures"
SPREAD, SPREAD_PER_TENSOR, EQUALIZED = (
    "channels spread: PTQ",
    "channels spread: PTQ, one scale a kernel",
    "channels spread: PTQ, one scale a kernel, equalized",
)
BATCH = 128
TIMES = 30  # how far channels are spread
COLLAPSE = 20.0  # the least points that it then costs to have one scale a kernel


@dataclasses.dataclass(frozen=True)
class Net:
    """A net and what its files may lose.

    Attributes:
        name: for the table.
        module: the net.
        optimizer: of the float training.
        bars: the most points of accuracy that a way of quantizing may cost.
    """

    name: str
    module: nn.Module
    optimizer: sgd | adamw
    bars: dict[str, float]

    @property
    def is_spread(self) -> bool:
        """Whether its files with channels spread are made too."""
        return EQUALIZED in self.bars


@dataclasses.dataclass(frozen=True)
class spread:
    """The same float network, the channels of whose kernels differ in range by ``times`` more.

    Every layer that ``quantize.equalizable`` tells has its output channels divided by factors uniform in
    their logarithm, and the layer that reads it multiplied by them.

    Attributes:
        times: the largest factor over the least.
        seed: of what is drawn.
    """

    times: float
    seed: int = 0

    def __call__(self, model: Model, variables: Variables, batches: Iterable[Array]) -> Variables:
        batches = list(batches)
        plan, rng = (
            quantize.make_plan(model, variables, batches[0]),
            np.random.default_rng(self.seed),
        )
        channels = {group.name: math.prod(group.channels) for group in plan.weighted}
        factors = {
            name: self.times ** rng.uniform(-0.5, 0.5, channels[name])
            for name, _ in quantize.equalizable(plan).pairs
        }
        return quantize.calibrate(model, quantize.rescale(plan, variables, factors), batches)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A data set, and how long a net trains on it.

    Attributes:
        name: of the folder of its runs.
        source: where the pictures come from.
        view: the augmentation.
        epochs: passes in float.
        tuned: passes in integers; twice as many with kernels of 4 bits.
    """

    name: str
    source: Source
    view: View
    epochs: float
    tuned: float


@dataclasses.dataclass(frozen=True)
class Result:
    """What a net's files reached: their accuracy, 0..1, and their bytes, by how they were quantized."""

    net: Net
    data: str
    params: int
    accuracy: dict[str, float]
    bytes: dict[str, int]

    def lost(self, way: str) -> float:
        """Share of the test pictures, 0..1, that the float file answers rightly beyond the other's."""
        return self.accuracy[FLOAT] - self.accuracy[way]

    def keeps(self, way: str) -> bool:
        """Whether that way of quantizing costs no more than its bar."""
        return 100 * self.lost(way) <= self.net.bars[way]

    @property
    def collapses(self) -> bool:
        """Whether one scale a kernel ruins the net whose channels are spread."""
        return 100 * self.lost(SPREAD_PER_TENSOR) >= COLLAPSE


# Every kernel of 4 bits, the first layer's and the head's too.
FOUR_BITS = quantize.int8(kernel=quantize.per_channel(bits=4, mse=True))
CALIBRATED = quantize.int8(estimator=quantize.moving_average())
ONE_SCALE = dataclasses.replace(CALIBRATED, kernel=quantize.per_tensor())
TUNING = adamw(3e-4, clip=1.0)
CONVOLUTIONAL = {PTQ: 0.6, QAT: 0.3, W4A8: 1.0}
RECTIFIED = {**CONVOLUTIONAL, EQUALIZED: 1.0}
TRANSFORMER = {PTQ: 1.0, QAT: 1.0}


def nets() -> tuple[Net, ...]:
    """Two that calibration with one scale a kernel is known to harm, and a small transformer."""
    v2, v4 = (
        make(10, width=0.5, small_inputs=1)
        for make in (models.mobilenet_v2, models.mobilenet_v4_conv_s)
    )
    vit = models.vit(10, patch=4, width=64, layers=4, heads=4, mlp_width=128)
    return (
        Net("MobileNetV2, width 0.5", v2, sgd(0.1), CONVOLUTIONAL),
        Net("MobileNetV4-Conv-S, width 0.5", v4, sgd(0.1), RECTIFIED),
        Net("ViT, 4 blocks of width 64", vit, adamw(2e-3, weight_decay=0.05), TRANSFORMER),
    )


def pictures() -> tuple[Pictures, ...]:
    """Sets of pictures that a net of this size trains on in minutes."""
    return (
        Pictures("fashion_mnist", data.tfds("fashion_mnist"), data.shift(1), 4, 0.5),
        Pictures("cifar10", data.cifar10(), data.crop_and_flip(4), 15, 2),
    )


def tiny() -> tuple[tuple[Net, Pictures], ...]:
    """The tiny form: digits, a step or two."""
    module = models.small_resnet(10, stem_width=8, widths=(8, 16))
    digits = Pictures("digits", data.digits(), data.shift(1), 0.1, 0.1)
    return ((Net("ResNet", module, sgd(0.1), RECTIFIED), digits),)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, net by net, and show the table after each; 1 where a bar is not met."""
    options = _parser().parse_args(arguments)
    process.start()
    todo = tiny() if options.quick else itertools.product(nets(), pictures())
    results = []
    for net, images in todo:
        name = f"{images.name}-{net.name.partition(',')[0]}".lower()
        report = chain.run(
            recipe(net, images),
            options.folder / name,
            title=f"{net.name} on {images.name}",
            command=page.command("accuracy", page.given(arguments)),
        )
        results.append(result(net, report))
        page.show(shown(results), page.given(arguments), write=options.write)
    return 0 if options.quick or kept(results) else 1


def recipe(net: Net, images: Pictures) -> Recipe:
    """The float stage, one a way of quantizing, and their files."""
    floats = Supervised(
        name="float",
        data=images.source,
        model=net.module,
        view=images.view,
        optimizer=net.optimizer,
        epochs=images.epochs,
        batch_size=BATCH,
    )
    calibrated, extreme, one_scale = (
        PostTraining(name=name, start=floats, data=images.source, quantize=scheme)
        for name, scheme in (
            ("ptq", CALIBRATED),
            ("min_max", quantize.int8()),
            ("per_tensor", ONE_SCALE),
        )
    )
    trained, four_bits = (
        Distill(
            name=name,
            data=images.source,
            start=floats,
            teacher=floats,
            loss=0.5 * losses.kl(temperature=4.0) + 0.5 * losses.cross_entropy(),
            view=images.view,
            quantize=scheme,
            optimizer=TUNING,
            epochs=epochs,
            batch_size=BATCH,
        )
        for name, scheme, epochs in (
            ("qat", quantize.int8(), images.tuned),
            ("w4a8", FOUR_BITS, 2 * images.tuned),
        )
    )
    made = _spread(floats, images) if net.is_spread else ()
    return Recipe(
        stages=(floats, calibrated, trained, four_bits, extreme, one_scale, *made),
        exports=(
            Export(floats, "float32", "litert"),
            Export(calibrated, "int8", "litert"),
            Export(trained, "int8", "litert"),
            Export(four_bits, "int8", "litert", layout=Layout(int4=True)),
            Export(extreme, "int8", "litert"),
            Export(one_scale, "int8", "litert"),
            *(Export(stage, "int8", "litert") for stage in made),
        ),
    )


def _spread(floats: Supervised, images: Pictures) -> tuple[PostTraining, ...]:
    """The calibrated stages of the same network whose channels are far apart."""
    apart = spread(TIMES)
    return tuple(
        PostTraining(name=name, start=floats, data=images.source, quantize=scheme, methods=methods)
        for name, scheme, methods in (
            ("spread", CALIBRATED, (apart,)),
            ("spread_per_tensor", ONE_SCALE, (apart,)),
            ("equalized", ONE_SCALE, (apart, quantize.equalize())),
        )
    )


WAYS = {
    "float": FLOAT,
    "ptq": PTQ,
    "qat": QAT,
    "w4a8": W4A8,
    "min_max": MIN_MAX,
    "per_tensor": PER_TENSOR,
    "spread": SPREAD,
    "spread_per_tensor": SPREAD_PER_TENSOR,
    "equalized": EQUALIZED,
}


def result(net: Net, report: Report) -> Result:
    """What a run's files reached."""
    files = {WAYS[file.made_from]: file for file in report.files}
    floats = report.stage("float")
    return Result(
        net=net,
        data=floats.data,
        params=floats.params,
        accuracy={way: file.accuracy for way, file in files.items()},
        bytes={way: file.bytes for way, file in files.items()},
    )


def shown(results: Sequence[Result]) -> page.Page:
    """The page of the nets that are done."""
    return page.Page(
        name="accuracy",
        title="What integers cost a trained network",
        method=page.method(__doc__),
        table=Table(COLUMNS, tuple(map(_rows, results))),
        findings=tuple(finding for result in results for finding in _findings(result)),
    )


COLUMNS = (
    Column("net"),
    Column("data"),
    Column("params", is_quantity=True),
    Column("file"),
    Column("size", is_quantity=True),
    Column("accuracy", is_quantity=True),
    Column("over float, pt", is_quantity=True),
    Column("bar", is_quantity=True),
)


def _rows(result: Result) -> tuple[Row, ...]:
    return tuple(
        (
            result.net.name,
            result.data,
            short(result.params),
            way,
            short(result.bytes[way], "B"),
            percent(accuracy),
            points(-result.lost(way)) if way != FLOAT else MISSING,
            points(-result.net.bars[way] / 100) if way in result.net.bars else MISSING,
        )
        for way, accuracy in result.accuracy.items()
    )


def kept(results: Sequence[Result]) -> bool:
    """Whether every bar of every net is met."""
    bars = all(result.keeps(way) for result in results for way in result.net.bars)
    return bars and all(result.collapses for result in results if result.net.is_spread)


def _findings(result: Result) -> list[str]:
    """Whether each bar is met, and the collapse reproduced."""
    found = [
        f"{result.net.name}, {result.data}: {way} is {points(-result.lost(way))} points from float, "
        f"bar {points(-bar / 100)} {'met' if result.keeps(way) else 'NOT met'}."
        for way, bar in result.net.bars.items()
    ]
    if result.net.is_spread:
        lost = [
            points(-result.lost(way)) for way in (SPREAD_PER_TENSOR, SPREAD, PER_TENSOR, EQUALIZED)
        ]
        found.append(
            f"{result.net.name}, {result.data}: channels {TIMES} times further apart than training left "
            f"them, one scale a kernel is {lost[0]} points from float, the collapse "
            f"{'reproduced' if result.collapses else 'NOT reproduced'}; one a channel is {lost[1]} points "
            f"from it, one a kernel before they were taken apart {lost[2]}, and equalized {lost[3]}."
        )
    return found


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("accuracy", __doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=Path("runs") / "accuracy", help="of the trainings"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
