"""Delivery: a stage's outcome to a .tflite file, checked against the training and measured by running it."""

import dataclasses
import functools
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize import simulate
from jaxmini.data import Split
from jaxmini.evaluate.accuracy import accuracy, predict_all
from jaxmini.evaluate.fidelity import agreement
from jaxmini.evaluate.runtime import Kernels, latency, tflite_integers, tflite_predict
from jaxmini.export import arena, distance, flatbuffer
from jaxmini.export.parity import Parity
from jaxmini.export.tflite import integer_form, tflite
from jaxmini.run.outcome import EVALUATION_BATCH, Outcome, Surroundings, logits_of
from jaxmini.run.report.content import FileResult
from jaxmini.run.stage import Export

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
    exported = tflite(outcome.artifact, path, variant=export.variant, backend=export.backend)
    answers = predict_all(tflite_predict(path), test.image)
    timing = latency(path)
    result = FileResult(
        name=export.file_name,
        variant=export.variant,
        backend=export.backend,
        bytes=exported.bytes,
        made_from=export.stage.name,
        accuracy=accuracy(answers, test.label),
        agreement=agreement(logits_of(outcome, test.image), answers),
        latency_ms=timing.median,
        latency_spread=timing.high - timing.low,
        ops=dict(exported.ops),
        checks=_compared(exported.parity) | _simulated(export, outcome, path, test.image),
        float_ops=_float_ops(flatbuffer.read(path)),
    )
    return _on_micro(result, path, test.image) if on_micro else result, answers


def _on_micro(result: FileResult, path: Path, images: np.ndarray) -> FileResult:
    """The figures, with those of the file in TFLite-Micro."""
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
        micro=(),
        arena_bytes=measured.smallest,
        checks=result.checks | {"TFLite-Micro": finding},
    )


def _float_ops(file: flatbuffer.File) -> dict[str, int]:
    """How many of each operation read or give floats, constants included."""

    def is_float(op: flatbuffer.Op) -> bool:
        tensors = (file.tensors[index] for index in (*op.inputs, *op.outputs) if index >= 0)
        return any(tensor.dtype.kind == "f" for tensor in tensors)

    return dict(Counter(op.name for op in file.ops if is_float(op)))


def _compared(parity: Parity | None) -> dict[str, str]:
    """What the exporter found when it read the file back (it refuses a file in which anything differs)."""
    counts = {} if parity is None else dataclasses.asdict(parity)
    return {
        name.replace("_", " "): f"{count:,} compared, 0 differ"
        for name, count in counts.items()
        if count
    }


def _simulated(export: Export, outcome: Outcome, path: Path, images: np.ndarray) -> dict[str, str]:
    """How the file's integers compare with the integer simulation of what was trained."""
    if export.variant != "int8":
        return {}
    plan, frozen = integer_form(outcome.artifact, EVALUATION_BATCH)
    run = jax.jit(functools.partial(simulate, plan, frozen))
    pixels = (images.astype(np.int16) - 128).astype(np.int8)
    expected = predict_all(lambda batch: run(jnp.asarray(batch)), pixels, EVALUATION_BATCH).astype(
        int
    )
    found = {}
    for kernels in (Kernels.XNNPACK, Kernels.REFERENCE):
        answers = predict_all(tflite_integers(path, kernels=kernels), images).astype(int)
        apart = distance.compare(expected, answers)
        found[f"integer simulation, {kernels} kernels"] = (
            f"{expected.size:,} logits, {round(apart.share * expected.size):,} differ, "
            f"by at most {apart.largest}; same answer on {100 * apart.agreement:.2f} %"
        )
    return found
