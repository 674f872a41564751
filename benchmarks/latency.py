"""Latency: one picture through our int8 file, beside the float file and other runtimes of the same net.

    python -m benchmarks.latency

The nets are untrained, as in `benchmarks.export`. LiteRT runs the float32 and the int8 .tflite with XNNPACK,
ONNX Runtime the int8 QDQ file of the same integers with all of its optimizations, PyTorch a net like it in
float32, eager, in the better of two memory layouts, in inference mode. All have one thread. The ways take
turns, a turn is as many pictures as last a tenth of a second; a ratio is the median over the rounds of a
way's wall time over that of our int8 file.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import export, page, pairs, sides
from jaxmini import models
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.export import onnx
from jaxmini.export.tflite import tflite
from jaxmini.run.report.quantity import milliseconds
from jaxmini.run.report.table import Column, Row, Table

OURS = "int8 .tflite, LiteRT"
COLUMNS = (
    Column("net"),
    Column("px", is_quantity=True),
    Column("how"),
    Column("wall", is_quantity=True),
    Column("/ our int8", is_quantity=True),
    Column("middle half", is_quantity=True),
)
CLASSES = export.CLASSES
NETS = (
    export.Case("ResNet-18, CIFAR stem", models.resnet18(CLASSES, stem="cifar"), 32),
    export.Case("MobileNetV2", models.mobilenet_v2(CLASSES, padding="torch"), 96),
    export.Case("MobileNetV2", models.mobilenet_v2(CLASSES, padding="torch"), 224),
    export.Case("MobileNetV4-Conv-S", models.mobilenet_v4_conv_s(CLASSES, padding="torch"), 224),
)

Way = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the ways, net by net, and show the table after each."""
    options = _parser().parse_args(arguments)
    cases, rounds = (export.TINY, 2) if options.quick else (NETS, options.rounds)
    groups = []
    for case in cases:
        groups.append(measured(case, rounds))
        shown = page.Page(
            name="latency",
            title="What one picture takes",
            method=f"{page.method(__doc__)} {rounds} rounds.",
            table=Table(COLUMNS, tuple(groups)),
            findings=sides.absent(),
        )
        page.show(shown, page.given(arguments), write=options.write)
    return 0


def measured(case: export.Case, rounds: int) -> tuple[Row, ...]:
    """The rows of a net."""
    images = export.smooth_noise(8, (case.side, case.side, 3))
    with tempfile.TemporaryDirectory() as folder:
        ways = _litert(case, images, Path(folder)) | _pytorch(case, images)
        timings = sides.timed(ways, rounds, least=0.1)
    first = timings[OURS]
    return tuple(_row(case, how, timing, first) for how, timing in timings.items())


def _litert(case: export.Case, images: np.ndarray, folder: Path) -> dict[str, Way]:
    """Our files: both .tflite, and the .onnx."""
    floats, integers = export.artifacts(case, images)
    tflite(integers, folder / "int8.tflite", variant="int8", backend="litert")
    tflite(floats, folder / "float32.tflite", variant="float32", backend="litert")
    onnx(integers, folder / "int8.onnx", variant="int8", batch=1)
    return {
        OURS: _run(folder / "int8.tflite", (images[:1].astype(np.int16) - 128).astype(np.int8)),
        "float32 .tflite, LiteRT": _run(folder / "float32.tflite", images[:1].astype(np.float32)),
        "int8 .onnx, ONNX Runtime": _onnx(folder / "int8.onnx", images[:1]),
    }


def _run(path: Path, image: np.ndarray) -> Way:
    interpreter = Interpreter(path)
    return lambda: interpreter.run(image)


def _onnx(path: Path, image: np.ndarray) -> Way:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})


def _pytorch(case: export.Case, images: np.ndarray) -> dict[str, Way]:
    """The float net in PyTorch, in both layouts; nothing where PyTorch is not installed."""
    torch_nets = sides.pytorch()
    if torch_nets is None:
        return {}
    ways = torch_nets.inferences(case.net, images[:1].astype(np.float32))
    return {f"float32, PyTorch, {layout}": way for layout, way in ways.items()}


def _row(case: export.Case, how: str, timing: pairs.Timing, first: pairs.Timing) -> Row:
    ratio = pairs.ratio(timing.wall, first.wall)
    median = milliseconds(1e3 * float(np.median(timing.wall)))
    spread = f"{ratio.low:.2f} to {ratio.high:.2f}"
    return case.name, str(case.side), how, median, f"{ratio.median:.2f}", spread


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("latency", __doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns each way has (default: 15)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
