"""Export: every net of the zoo as an integer file, at the size it is made for.

    python -m benchmarks.export

Nothing is trained: weights are as initialised, BatchNorm has random factors (a tenth of them negative) and
the statistics of the pictures, which are smooth noise; ranges are calibrated on as many. Such a net's logits
lie close together, so steps of the output's grid (LSB) say more than which class is first. Both back ends
write the int8 file. Each is compared, number by number, with what was frozen (the export refuses a
difference), and its logits with the integer simulation; the columns are the first's, litert's, where none is
named. Latency is that of one picture on one thread, a median; parameters and MACs are the float net's;
memory is that of the activations that are alive at once. In the picture, a ring is a float32 file and a dot
the int8 one of the same net. It tells what files cost, not how well they answer: a net off the front may be
the better one once trained.
"""

import dataclasses
import functools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from benchmarks import page, pareto
from jaxmini import models
from jaxmini.compress import quantize
from jaxmini.data import Normalization
from jaxmini.evaluate.accuracy import predict_all
from jaxmini.evaluate.cost import Cost, cost
from jaxmini.evaluate.file_cost import file_cost, float_ops
from jaxmini.evaluate.runtime import Kernels, latency, tflite_integers
from jaxmini.export import distance
from jaxmini.export.artifact import Artifact
from jaxmini.export.converter import Backend
from jaxmini.export.flatbuffer import read
from jaxmini.export.integer import integer_form
from jaxmini.export.tflite import Exported, tflite
from jaxmini.model import Variables, from_linen
from jaxmini.run.report.quantity import MISSING, milliseconds, short
from jaxmini.run.report.table import Column, Row, Table
from jaxmini.state import PyTree

CLASSES = 100
NORMALIZATION = Normalization(0.5, 0.25)
# LayerNorm is a float island otherwise.
INTEGER_NORMS = quantize.int8(rules=(quantize.integer_norm(),))


@dataclasses.dataclass(frozen=True)
class Case:
    """A net, the side of its pictures in pixels, and how its integers are made."""

    name: str
    net: nn.Module
    side: int
    scheme: quantize.int8 = quantize.int8()


ZOO = (
    Case("ResNet-20", models.resnet_cifar(20, CLASSES), 32),
    Case("ResNet-56", models.resnet_cifar(56, CLASSES), 32),
    Case("ResNet-8x4", models.resnet8x4(CLASSES), 32),
    Case("ResNet-32x4", models.resnet32x4(CLASSES), 32),
    Case("MLPerf Tiny ResNet-8", models.mlperf_resnet8(CLASSES), 32),
    Case("ResNet-18, CIFAR stem", models.resnet18(CLASSES, stem="cifar"), 32),
    Case("ResNet-18", models.resnet18(CLASSES, stem="imagenet"), 96),
    Case("ResNet-34", models.resnet34(CLASSES, stem="imagenet"), 96),
    Case("MLPerf Tiny MobileNet", models.mlperf_mobilenet_v1(CLASSES), 96),
    Case("ResNet-50", models.resnet50(CLASSES, stem="imagenet"), 224),
    Case("MobileNetV2", models.mobilenet_v2(CLASSES), 96),
    Case("MobileNetV2", models.mobilenet_v2(CLASSES), 224),
    Case("MobileNetV4-Conv-S", models.mobilenet_v4_conv_s(CLASSES), 96),
    Case("MobileNetV4-Conv-S", models.mobilenet_v4_conv_s(CLASSES), 224),
    Case("ViT-Ti, patch 16", models.vit_tiny(CLASSES, patch=16), 96),
    Case("ViT-Ti, integer norms", models.vit_tiny(CLASSES, patch=16), 96, INTEGER_NORMS),
    Case("ViT-Ti, patch 16", models.vit_tiny(CLASSES, patch=16), 224),
    Case("ViT-Ti, integer norms", models.vit_tiny(CLASSES, patch=16), 224, INTEGER_NORMS),
    Case("ViT-S, integer norms", models.vit_small(CLASSES, patch=16), 224, INTEGER_NORMS),
    Case("ViT-B, integer norms", models.vit_base(CLASSES, patch=16), 224, INTEGER_NORMS),
)
TINY = (Case("small ResNet", models.small_resnet(CLASSES, stem_width=8, widths=(8, 16)), 16),)
COLUMNS = (
    Column("net"),
    *(
        Column(name, is_quantity=True)
        for name in (
            "px",
            "parameters",
            "MACs",
            "operators",
            "of them float",
            "integers compared",
            "jax2tf",
            "float32 file",
            "int8 file",
            "float32, memory",
            "int8, memory",
            "float32, latency",
            "int8, latency",
            "ratio",
            "LSB, XNNPACK",
            "LSB, jax2tf",
            "LSB, reference",
            "conversion",
            "jax2tf",
        )
    ),
)


@dataclasses.dataclass(frozen=True)
class Integers:
    """An int8 file.

    Attributes:
        exported: the file.
        seconds: that writing it took.
        float_ops: how many of its operators read or give floats.
        peak: bytes of activations.
        apart: how far its logits are from the simulation's, by kernels.
    """

    exported: Exported
    seconds: float
    float_ops: int
    peak: int
    apart: Mapping[Kernels, distance.Distance]

    @property
    def compared(self) -> int:
        """How many stored numbers are those of the frozen net."""
        return sum(dataclasses.asdict(self.exported.parity).values())

    @property
    def is_exact(self) -> bool:
        """Whether its logits on XNNPACK are the simulation's, bit for bit."""
        return self.apart[Kernels.XNNPACK].largest == 0


@dataclasses.dataclass(frozen=True)
class Found:
    """What was measured of a net.

    Attributes:
        case: which net.
        price: of the float net.
        floats, peak: its file, and bytes of that one's activations.
        integers: the int8 files, by back end; the first is the one whose latency was measured.
        milliseconds: median latency, by variant.
    """

    case: Case
    price: Cost
    floats: Exported
    peak: int
    integers: Mapping[Backend, Integers]
    milliseconds: Mapping[str, float]

    @property
    def first(self) -> Integers:
        """The int8 file of the first back end."""
        return next(iter(self.integers.values()))

    @property
    def is_exact(self) -> bool:
        """Whether every int8 file is."""
        return all(file.is_exact for file in self.integers.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Export net by net, and show the table after each; 1 where a file of integers alone is not exact."""
    options = _parser().parse_args(arguments)
    cases = TINY if options.quick else [c for c in ZOO if (options.only or "") in c.name]
    pictures = 4 if options.quick else options.pictures
    done: list[Found] = []
    for case in cases:
        done.append(measured(case, pictures, options.backends))
        page.show(shown(done, options), page.given(arguments), write=options.write)
    return 0 if all(found.is_exact for found in done if not found.first.float_ops) else 1


def measured(case: Case, pictures: int, backends: Sequence[Backend]) -> Found:
    """All files of a net, written and run."""
    images = smooth_noise(pictures, (case.side, case.side, 3))
    floats, integers = artifacts(case, images)
    expected = simulated(integers, images)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.tflite" for name in ("float32", *backends)}
        float32 = tflite(floats, paths["float32"], variant="float32", backend=backends[0])
        files = {
            backend: written(integers, paths[backend], backend, images, expected)
            for backend in backends
        }
        return Found(
            case,
            cost(floats.model, floats.input_shape),
            float32,
            file_cost(float32.path).peak_bytes,
            files,
            {
                variant: latency(file.path).median
                for variant, file in (("float32", float32), ("int8", files[backends[0]].exported))
            },
        )


def written(
    artifact: Artifact, path: Path, backend: Backend, images: np.ndarray, expected: np.ndarray
) -> Integers:
    """An int8 file, its logits for the images compared with these."""
    began = time.perf_counter()
    exported = tflite(artifact, path, variant="int8", backend=backend)
    seconds = time.perf_counter() - began
    apart = {
        kernels: distance.compare(
            expected, predict_all(tflite_integers(path, kernels=kernels), images).astype(int)
        )
        for kernels in (Kernels.XNNPACK, Kernels.REFERENCE)
    }
    file = read(path)
    return Integers(
        exported, seconds, sum(float_ops(file).values()), file_cost(file).peak_bytes, apart
    )


def artifacts(case: Case, images: np.ndarray) -> tuple[Artifact, Artifact]:
    """The net with statistics of the pictures, in float and calibrated for integers."""
    model, inputs = from_linen(case.net), NORMALIZATION(jnp.asarray(images))
    variables = with_statistics(case.net, jax.jit(model.init)(jax.random.key(0), inputs), inputs)
    grid = quantize.Grid(np.float32(NORMALIZATION.scale), np.int32(NORMALIZATION.zero_point))
    network = quantize.quantize(model, case.scheme, input_grid=grid)
    calibrated = quantize.calibrate(network, variables, [inputs])
    labels = tuple(str(number) for number in range(CLASSES))
    make = functools.partial(
        Artifact, labels=labels, normalization=NORMALIZATION, input_shape=images.shape[1:]
    )
    return make(model=model, variables=variables), make(model=network, variables=calibrated)


def with_statistics(net: nn.Module, variables: Variables, inputs: jax.Array) -> Variables:
    """Variables whose BatchNorms have random factors and shifts, and the statistics of these inputs."""
    rng = np.random.default_rng(0)

    def drawn(path: tuple, leaf: jax.Array) -> jax.Array:
        name, owner = path[-1].key, path[-2].key if len(path) > 1 else ""
        if not owner.endswith("bn"):
            return leaf
        if name == "bias":
            return jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype)
        factor = rng.normal(1.0, 0.3, leaf.shape)
        return jnp.asarray(np.where(rng.random(leaf.shape) < 0.1, -factor, factor), leaf.dtype)

    params = jax.tree_util.tree_map_with_path(drawn, variables["params"])
    if "batch_stats" not in variables:
        return {"params": params}

    @jax.jit
    def updated(statistics: PyTree) -> PyTree:
        given = {"params": params, "batch_stats": statistics}
        return net.apply(given, inputs, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    # A running average moves from what is there towards the batch's own; two of them tell that.
    zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    of_zeros, of_ones = updated(zeros), updated(jax.tree.map(jnp.ones_like, zeros))
    own = jax.tree.map(lambda zero, one: zero / (1 - (one - zero)), of_zeros, of_ones)
    return {"params": params, "batch_stats": own}


def simulated(artifact: Artifact, images: np.ndarray) -> np.ndarray:
    """The integer simulation's logits, one picture at a time."""
    plan, frozen = integer_form(artifact)
    run = jax.jit(functools.partial(quantize.simulate, plan, frozen))
    pixels = (images.astype(np.int16) - 128).astype(np.int8)
    return np.concatenate([np.asarray(run(jnp.asarray(one[None]))) for one in pixels]).astype(int)


def smooth_noise(number: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Pictures of blurred noise over the whole range of pixels, uint8 [number, *shape]."""
    rng, (height, width, channels) = np.random.default_rng(1), shape
    noise = rng.normal(size=(number, height, width, channels))
    smooth = ndimage.gaussian_filter(noise, (0, height / 16, width / 16, 0))
    low, high = smooth.min((1, 2, 3), keepdims=True), smooth.max((1, 2, 3), keepdims=True)
    return np.round(255 * (smooth - low) / (high - low)).astype(np.uint8)


def shown(done: Sequence[Found], options: page.argparse.Namespace) -> page.Page:
    """The page of the nets that are done."""
    plain = [found for found in done if not found.first.float_ops]
    exact = [found for found in plain if found.is_exact]
    panels = by_side(done)
    return page.Page(
        name="export",
        title="The zoo as integer files",
        method=f"{page.method(__doc__)} {options.pictures} pictures.",
        table=Table(COLUMNS, (tuple(map(_row, done)),)),
        findings=(
            *(_stored(backend, done) for backend in options.backends),
            f"{len(plain)} of {len(done)} nets hold no float operator; the files of "
            f"{len(exact)} of these equal the simulation bit for bit on XNNPACK.",
            *(pareto.says(side, files) for side, files in panels.items()),
        ),
        picture=pareto.draw(panels),
        pictured="Bytes of every file against its latency, a panel for each size of pictures",
    )


def _stored(backend: Backend, done: Sequence[Found]) -> str:
    compared = sum(found.integers[backend].compared for found in done)
    return (
        f"{backend}: all {compared:,} numbers that the files of {len(done)} nets store are those that "
        "were frozen (the export refuses a file in which one differs)."
    )


def by_side(done: Sequence[Found]) -> dict[str, list[pareto.File]]:
    """The files by the size of their pictures: only those of one size can stand in for each other."""
    panels: dict[str, list[pareto.File]] = {}
    for found in sorted(done, key=lambda found: found.case.side):
        panels.setdefault(f"{found.case.side} px", []).extend(
            pareto.File(found.case.name, variant, found.milliseconds[variant], file.bytes)
            for variant, file in (("float32", found.floats), ("int8", found.first.exported))
        )
    return panels


def _row(found: Found) -> Row:
    first, other = found.first, found.integers.get("jax2tf")
    return (
        found.case.name,
        str(found.case.side),
        short(found.price.params),
        short(found.price.macs),
        str(sum(first.exported.ops.values())),
        str(first.float_ops),
        f"{first.compared:,}",
        f"{other.compared:,}" if other else MISSING,
        *(short(file.bytes, "B") for file in (found.floats, first.exported)),
        *(short(peak, "B") for peak in (found.peak, first.peak)),
        *(milliseconds(found.milliseconds[variant]) for variant in ("float32", "int8")),
        f"{found.milliseconds['int8'] / found.milliseconds['float32']:.2f}",
        _apart(first.apart[Kernels.XNNPACK]),
        _apart(other.apart[Kernels.XNNPACK]) if other else MISSING,
        _apart(first.apart[Kernels.REFERENCE]),
        f"{first.seconds:.1f} s",
        f"{other.seconds:.1f} s" if other else MISSING,
    )


def _apart(apart: distance.Distance) -> str:
    return f"{apart.largest}" + (f" ({100 * apart.share:.1f} %)" if apart.largest else "")


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("export", __doc__.splitlines()[0])
    parser.add_argument("--only", help="nets with this in their name")
    parser.add_argument("--pictures", type=int, default=64, help="to run (default: 64)")
    parser.add_argument(
        "--backends",
        choices=get_args(Backend),
        nargs="+",
        default=["litert", "jax2tf"],
        help="that write the int8 file; the first writes the float32 one too (default: both)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
