"""Convolutions: single ones with jaxmini's rule, against plain XLA's and against PyTorch's.

    python -m benchmarks.convolutions

Pictures, kernels and gradients are random float32 numbers. Every direction is a program of its own: the
result (forward), the gradient of the kernel (filter) and that of the pictures (input, which nobody asks for
where they are RGB). The path is the rule's formulation. XLA and jaxmini are compiled without and with
`jaxmini.cpu.install()`. PyTorch is eager, in two memory layouts, each on one thread and on all cores, its
threads told to sleep while they wait for each other (`OMP_WAIT_POLICY=passive`); the lowest median of these
counts. Its borders are as wide on every side, where XLA's of stride 2 are not. All keep freed memory
(`jaxmini.cpu.keep_freed_memory`) and take turns. Ratios are medians over the rounds, of CPU time of all
threads; the threads that a way takes are its CPU time over its wall time, the median too; the error is the
rule's largest difference from XLA's result, over the largest number of that.
"""

import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import lax

from benchmarks import page, pairs, sides
from benchmarks.sides import JAXMINI, XLA, Way
from jaxmini.run.report.table import Column, Row, Table

COLUMNS = (
    *(Column(name) for name in ("convolution", "direction", "path")),
    *(
        Column(name, is_quantity=True)
        for name in (
            *("XLA / PyTorch", "jaxmini / PyTorch", "jaxmini / XLA"),
            *("threads, XLA", "threads, jaxmini", "largest error"),
        )
    ),
)
DIRECTIONS = ("forward", "filter", "input")
RGB = 3


@dataclasses.dataclass(frozen=True)
class Shape:
    """A convolution of square pictures; ``depthwise`` ones have a group a feature."""

    kernel: int
    stride: int
    size: int
    inputs: int
    outputs: int
    depthwise: bool = False

    def __str__(self) -> str:
        kind = "depthwise " if self.depthwise else ""
        kernel = f"{kind}{self.kernel}x{self.kernel} stride {self.stride}"
        return f"{kernel}, {self.size} px, {self.inputs} to {self.outputs}"


SHAPES = tuple(
    Shape(*row)
    for row in (
        *((1, 1, 32, 16, 96), (1, 1, 32, 96, 16), (1, 1, 8, 192, 32), (1, 1, 4, 96, 576)),
        *((1, 2, 32, 64, 128), (3, 1, 32, 16, 16), (3, 1, 16, 32, 32), (3, 1, 32, 64, 64)),
        *((3, 1, 16, 128, 128), (3, 1, 8, 256, 256), (3, 1, 4, 512, 512), (3, 2, 32, 16, 32)),
        *((3, 2, 32, 64, 128), (3, 2, 16, 128, 256), (5, 1, 16, 32, 32)),
        *((3, 1, 32, 3, 16), (3, 1, 32, 3, 64), (3, 2, 32, 3, 16)),
        *((7, 1, 32, 3, 32), (4, 4, 32, 3, 192)),
        *((3, 1, 32, 96, 96, True), (3, 1, 16, 96, 96, True), (3, 1, 32, 16, 16, True)),
        *((3, 1, 8, 192, 192, True), (3, 1, 4, 576, 576, True), (3, 2, 8, 384, 384, True)),
        *((3, 2, 32, 96, 96, True), (3, 2, 16, 96, 96, True), (5, 1, 16, 96, 96, True)),
        *((5, 1, 4, 192, 192, True), (5, 1, 2, 384, 384, True), (5, 2, 8, 96, 96, True)),
    )
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the convolutions, each in its directions."""
    options = _parser().parse_args(arguments)
    sides.prepare()
    shapes = [shape for shape in SHAPES if options.only.lower() in str(shape)]
    batch, rounds = options.batch, options.rounds
    if options.quick:
        shapes, batch, rounds = shapes[:1], 4, 2
    groups = []
    for shape in shapes:
        directions = DIRECTIONS[:2] if shape.inputs == RGB else DIRECTIONS
        rows = (measured(shape, each, batch, rounds) for each in directions)
        groups.append(tuple(rows))
        print(*(" ".join(row) for row in groups[-1]), sep="\n", file=sys.stderr, flush=True)
    shown = page.Page(
        name="convolutions",
        title="What a convolution costs on a CPU",
        method=f"{page.method(__doc__)} {batch} pictures a batch, {rounds} rounds.",
        table=Table(COLUMNS, tuple(groups)),
        findings=sides.absent(),
    )
    page.show(shown, page.given(arguments), write=options.write)
    return 0


def measured(shape: Shape, direction: str, batch: int, rounds: int) -> Row:
    """The cells of ``COLUMNS``."""
    convolve, operands = convolution(shape, batch)
    function, given = program(convolve, operands, direction)
    lowered, programs = [], {}
    for name in (XLA, JAXMINI):
        sides.switch(name == JAXMINI, lowered.append)
        programs[name] = jax.jit(function).lower(*given).compile()
    given = jax.device_put(given)
    results = {name: np.asarray(program(*given)) for name, program in programs.items()}
    error = np.abs(results[JAXMINI] - results[XLA]).max() / np.abs(results[XLA]).max()
    ways: dict[str, Way] = {
        name: lambda program=program: jax.block_until_ready(program(*given))
        for name, program in programs.items()
    }
    others, torch_nets = {}, sides.pytorch()
    if torch_nets is not None:
        side = 0 if shape.kernel == shape.stride else shape.kernel // 2
        others = torch_nets.convolutions(*operands, shape.stride, side, direction)
        counts = (1, torch_nets.cores())
        others = {k: way for n in counts for k, way in torch_nets.on_threads(others, n).items()}
    timings = sides.timed(ways | others, rounds, least=0.03)
    best = sides.fastest(timings, tuple(others))
    pair = ((XLA, best), (JAXMINI, best), (JAXMINI, XLA))
    ratios = (sides.compared(timings, of, to) for of, to in pair)
    threads = (f"{_threads(timings[name]):.1f}" for name in (XLA, JAXMINI))
    cells = *map(sides.cell, ratios), *threads, f"{error:.0e}"
    return str(shape), direction, lowered[0].path, *cells


def _threads(timing: pairs.Timing) -> float:
    return statistics.median(cpu / wall for cpu, wall in zip(timing.cpu, timing.wall, strict=True))


def convolution(shape: Shape, batch: int) -> tuple[Callable, tuple[np.ndarray, ...]]:
    """The function of pictures and kernel; pictures, kernel and gradient of the result, all random."""
    groups = shape.inputs if shape.depthwise else 1
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=(shape.stride, shape.stride),
        padding="VALID" if shape.kernel == shape.stride else "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, shape.size, shape.size, shape.inputs)).astype(np.float32)
    kernel = (shape.kernel, shape.kernel, shape.inputs // groups, shape.outputs)
    w = (0.05 * rng.normal(size=kernel)).astype(np.float32)
    g = rng.normal(size=jax.eval_shape(convolve, x, w).shape).astype(np.float32)
    return convolve, (x, w, g)


def program(
    convolve: Callable, operands: tuple[np.ndarray, ...], direction: str
) -> tuple[Callable, tuple[np.ndarray, ...]]:
    """One direction of a convolution and its arguments."""
    x, w, g = operands
    return {
        "forward": (convolve, (x, w)),
        "filter": (lambda x, g: jax.linear_transpose(lambda w: convolve(x, w), w)(g)[0], (x, g)),
        "input": (lambda w, g: jax.linear_transpose(lambda x: convolve(x, w), x)(g)[0], (w, g)),
    }[direction]


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("convolutions", __doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="pictures (default: 64)")
    sides.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
