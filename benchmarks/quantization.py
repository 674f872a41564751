"""Quantization: a training step in integers against the same step in float, and the cost of a conversion.

    python -m benchmarks.quantization

The steps are the float32 updates of `benchmarks.cpu`, with jaxmini's convolutions: once of the net, with
BatchNorm on batch statistics, and once of `quantize(net, int8())`, calibrated, with BatchNorm folded. They
take turns; memory is what the program needs besides its arguments. A conversion is `export.tflite` of the
int8 net in a process of its own, which the back ends take by turns: seconds as the caller waits and of CPU;
memory is the most that the caller and the processes that it starts are seen to hold together while it lasts,
resident, less what they held before it.
"""

import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import export, page, pairs, sides, trainings
from jaxmini import losses, steps
from jaxmini.compress import quantize
from jaxmini.export.tflite import tflite
from jaxmini.model import from_linen
from jaxmini.run.report.quantity import short
from jaxmini.run.report.table import Column, Row, Table

FLOAT, INT8 = "float32", "int8"
BACKENDS = ("litert", "jax2tf")
COLUMNS = (*pairs.COLUMNS, Column("memory", is_quantity=True))


@dataclasses.dataclass(frozen=True)
class Case:
    """A net and the highest CPU ratio of its steps that is good enough."""

    name: str
    net: nn.Module
    bar: float


CONVOLUTIONAL, TRANSFORMER = 1.3, 1.6
NETS = (
    Case("step, MobileNetV2, width 0.5", trainings.V2, CONVOLUTIONAL),
    Case("step, MobileNetV4-Conv-S, width 0.5", trainings.V4, CONVOLUTIONAL),
    Case("step, ResNet-18, width 16", trainings.R16, CONVOLUTIONAL),
    Case("step, ViT-Ti, patch 4", trainings.VIT, TRANSFORMER),
)
TINY = (Case("step, tiny", trainings.TINY, CONVOLUTIONAL),)
CONVERTED = ("MobileNetV2", 224)
EVERY = 0.05  # seconds between two looks at memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the steps and the conversions; 1 where a step is above its bar."""
    options = _parser().parse_args(arguments)
    if options.worker:
        return convert(options.worker, quick=options.quick)
    sides.prepare()
    rounds, batch = (2, 8) if options.quick else (options.rounds, options.batch)
    groups, findings, kept = [], [], True
    for case in TINY if options.quick else NETS:
        rows, ratio = compared(case, batch, rounds)
        groups.append(rows)
        kept &= ratio <= case.bar
        judged = f"bar {case.bar} {'met' if ratio <= case.bar else 'missed'}"
        findings.append(f"{case.name}: {ratio:.3f} of the float step, {judged}.")
        print(findings[-1], file=sys.stderr, flush=True)
    groups.append(conversions(2 if options.quick else options.conversions, quick=options.quick))
    shown = page.Page(
        name="quantization",
        title="What training in integers and converting cost",
        method=f"{page.method(__doc__)} {rounds} rounds, batch {batch}; "
        f"{options.conversions} conversions a back end.",
        table=Table(COLUMNS, tuple(groups)),
        findings=tuple(findings),
    )
    page.show(shown, page.given(arguments), write=options.write)
    return 0 if options.quick or kept else 1


def compared(case: Case, batch: int, rounds: int) -> tuple[tuple[Row, ...], float]:
    """The rows of both steps of a net, and the ratio of their CPU times."""
    scenes = {FLOAT: trainings.supervised(case.net, batch), INT8: quantized(case.net, batch)}
    programs = {name: trainings.compiled(scene, rule=True) for name, scene in scenes.items()}
    ways = {
        name: trainings.Training(scenes[name]).by(program) for name, program in programs.items()
    }
    timings = sides.timed(ways, rounds, least=0.3)
    rows = pairs.rows(f"{case.name}", timings)
    shown = tuple(
        (*row, short(program.memory, "B"))
        for row, program in zip(rows, programs.values(), strict=True)
    )
    return shown, pairs.ratio(timings[INT8].cpu, timings[FLOAT].cpu).median


def quantized(net: nn.Module, batch: int) -> trainings.Scene:
    """The training of ``trainings.supervised`` in the integers of the net's file."""
    floats = trainings.supervised(net, batch)
    network, optimizer = (
        quantize.quantize(from_linen(net)),
        steps.sgd(trainings.RATE, warmup=0.0)(1000),
    )
    images = jnp.asarray(floats.batch["image"])
    variables = quantize.calibrate(network, floats.state.variables, [images])
    step = steps.supervised(network, losses.cross_entropy(), optimizer)
    state = steps.start(optimizer, jax.random.key(1), variables)
    return trainings.Scene(step, state, {}, floats.batch)


def conversions(rounds: int, *, quick: bool) -> tuple[Row, ...]:
    """The rows of the back ends' conversions."""
    made: dict[str, list[Mapping[str, float]]] = {backend: [] for backend in BACKENDS}
    command = [sys.executable, "-m", "benchmarks.quantization", *(["--quick"] if quick else [])]
    for _ in range(rounds):
        for backend in BACKENDS:
            ran = subprocess.run(
                [*command, "--worker", backend], stdout=subprocess.PIPE, text=True, check=True
            )
            made[backend].append(json.loads(ran.stdout.splitlines()[-1]))
    timings = {
        backend: pairs.Timing(tuple(m["cpu"] for m in each), tuple(m["wall"] for m in each))
        for backend, each in made.items()
    }
    case = _converted(quick)
    rows = pairs.rows(f"conversion, {case.name}, {case.side} px", timings)
    return tuple(
        (*row, short(max(m["memory"] for m in made[backend]), "B"))
        for row, backend in zip(rows, BACKENDS, strict=True)
    )


def convert(backend: str, *, quick: bool) -> int:
    """What a process does: one conversion, and a line that tells what it took."""
    case = _converted(quick)
    images = export.smooth_noise(2, (case.side, case.side, 3))
    _, artifact = export.artifacts(case, images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.tflite"
        taken = spent(lambda: tflite(artifact, path, variant="int8", backend=backend))
    print(json.dumps(taken))
    return 0


def spent(work: Callable[[], object]) -> dict[str, float]:
    """What work takes: seconds of wall and of CPU, and bytes of memory above those held before it."""
    import psutil

    this, ended = psutil.Process(), threading.Event()
    before = most = _resident(this)
    looking = 0.0

    def look() -> None:
        nonlocal most, looking
        over = False
        while not over:
            over = ended.wait(EVERY)
            most = max(most, _resident(this))
        looking = time.thread_time()

    watch = threading.Thread(target=look)
    began, used = time.perf_counter(), _cpu()
    watch.start()
    try:
        work()
    finally:
        wall = time.perf_counter() - began
        ended.set()
        watch.join()
    return {"wall": wall, "cpu": _cpu() - used - looking, "memory": most - before}


def _resident(process: Any) -> int:
    """Bytes of memory that a process and those that it has started hold now."""
    import psutil

    held = process.memory_info().rss
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            held += child.memory_info().rss
    return held


def _cpu() -> float:
    """Seconds of CPU of this process and of those it has waited for."""
    used = (resource.getrusage(one) for one in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return float(np.sum([each.ru_utime + each.ru_stime for each in used]))


def _converted(quick: bool) -> export.Case:
    if quick:
        return export.TINY[0]
    return next(case for case in export.ZOO if (case.name, case.side) == CONVERTED)


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("quantization", __doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="pictures a step (default: 64)")
    parser.add_argument("--rounds", type=int, default=9, help="turns each step has (default: 9)")
    parser.add_argument("--conversions", type=int, default=3, help="of each back end (default: 3)")
    parser.add_argument("--worker", choices=BACKENDS, help="be the process of one conversion")
    return parser


if __name__ == "__main__":
    sys.exit(main())
