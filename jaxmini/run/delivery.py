"""Delivery: a stage's outcome as a file, checked against the training and measured by running it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmini.compress.quantize import simulator
from jaxmini.compress.quantize.plan import INPUT
from jaxmini.data import Split
from jaxmini.evaluate.accuracy import Predict, accuracy, predict_all
from jaxmini.evaluate.fidelity import agreement
from jaxmini.evaluate.runtime import Kernels, tflite_predict
from jaxmini.export import arena, distance, flatbuffer
from jaxmini.export.integer import integer_form, pixels
from jaxmini.export.micro import unfit
from jaxmini.run.layers import layers_of
from jaxmini.run.outcome import EVALUATION_BATCH, Outcome, Surroundings, logits_of
from jaxmini.run.report.content import FileResult
from jaxmini.run.stage import Export
from jaxmini.run.written import bytes_of, write

# Pictures on which TFLite-Micro, whose kernels are slow here, is compared with the reference kernels.
MICRO_PICTURES = 100


def deliver(
    export: Export,
    outcome: Outcome,
    test: Split,
    around: Surroundings,
    *,
    on_micro: bool = False,
) -> tuple[FileResult, np.ndarray]:
    """Write the file, prove it, run it over the whole test split.

    Args:
        export: what to write.
        outcome: of the stage it is made from.
        test: pictures and labels to measure on.
        around: the run.
        on_micro: run the file in TFLite-Micro too, and measure its arena.

    Returns:
        The file's figures, and its own logits [N, classes].

    Raises:
        ParityError: an integer in the file is not the trained one.
    """
    path = around.workdir.path / "exports" / export.file_name
    path.parent.mkdir(exist_ok=True)
    around.log.event(f"{export.file_name}: converting by {export.backend}")
    file = write(export, outcome.artifact, path)
    answers = predict_all(file.predict, test.image, file.batch)
    layers, layers_note = layers_of(export, outcome.artifact, path, test.image)
    result = FileResult(
        name=export.file_name,
        variant=export.variant,
        backend=export.backend,
        bytes=bytes_of(path),
        made_from=export.stage.name,
        accuracy=accuracy(answers, test.label),
        agreement=agreement(logits_of(outcome, test.image), answers),
        latency_ms=None if file.timing is None else file.timing.median,
        latency_spread=None if file.timing is None else file.timing.high - file.timing.low,
        ops=dict(file.ops),
        checks=dict(file.compared) | _simulated(outcome, file.integers, test.image),
        float_ops=None if file.float_ops is None else dict(file.float_ops),
        layers=layers,
        layers_note=layers_note,
    )
    return _on_micro(result, path, test.image) if on_micro else result, answers


def _on_micro(result: FileResult, path: Path, images: np.ndarray) -> FileResult:
    """The figures, with those of the file in TFLite-Micro; it is judged as ``export.micro`` judges it."""
    try:
        measured = arena.measure(path)
    except arena.MicroError as error:
        return dataclasses.replace(result, micro=error.reasons)
    images = images[:MICRO_PICTURES]
    expected, found = (
        tflite_predict(path, kernels=kernels)(images)
        for kernels in (Kernels.REFERENCE, Kernels.MICRO)
    )
    finding = (
        f"runs; arena {measured.smallest:,} bytes; {found.size:,} logits, "
        f"{np.count_nonzero(found != expected):,} differ from those of the reference kernels"
    )
    return dataclasses.replace(
        result,
        micro=unfit(flatbuffer.read(path)),
        arena_bytes=measured.smallest,
        checks=result.checks | {"TFLite-Micro": finding},
    )


def _simulated(
    outcome: Outcome, integers: Mapping[str, Predict], images: np.ndarray
) -> dict[str, str]:
    """How the file's integers, in each way to run it, compare with the simulation of what was trained."""
    if not integers:
        return {}
    batch = min(EVALUATION_BATCH, len(images))  # of which predict_all takes no more
    plan, frozen = integer_form(outcome.artifact, batch)
    inputs = pixels(images, frozen.grids[INPUT], outcome.artifact.normalization)
    expected = predict_all(simulator(plan, frozen), inputs, batch).astype(int)
    found = {}
    for how, answer in integers.items():
        apart = distance.compare(expected, predict_all(answer, images).astype(int))
        found[f"integer simulation, {how}"] = (
            f"{expected.size:,} logits, {round(apart.share * expected.size):,} differ, "
            f"by at most {apart.largest}; same answer on {100 * apart.agreement:.2f} %"
        )
    return found
