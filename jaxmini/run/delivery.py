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
from jaxmini.export import distance, flatbuffer
from jaxmini.export.integer import integer_form
from jaxmini.export.parity import Parity
from jaxmini.export.tflite import tflite
from jaxmini.run.outcome import EVALUATION_BATCH, Outcome, Surroundings, logits_of
from jaxmini.run.report.content import FileResult
from jaxmini.run.stage import Export


def deliver(
    export: Export, outcome: Outcome, test: Split, around: Surroundings
) -> tuple[FileResult, np.ndarray]:
    """Write the file, prove it, run it over the whole test split.

    Returns:
        The file's figures, and its own logits [N, classes].

    Raises:
        ParityError: an integer in the file is not the trained one.
    """
    path = around.workdir.path / "exports" / export.file_name
    path.parent.mkdir(exist_ok=True)
    around.log.event(f"{export.file_name}: converting by {export.backend}")
    exported = tflite(
        outcome.artifact,
        path,
        variant=export.variant,
        backend=export.backend,
        layout=export.layout,
    )
    answers = predict_all(tflite_predict(path), test.image)
    timing = latency(path)
    return FileResult(
        name=export.file_name,
        variant=export.variant,
        backend=export.backend,
        bytes=exported.bytes,
        made_from=export.stage.name,
        accuracy=accuracy(answers, test.label),
        agreement=agreement(logits_of(outcome, test.image), answers),
        latency_ms=timing.median / export.layout.batch,
        latency_spread=(timing.high - timing.low) / export.layout.batch,
        ops=dict(exported.ops),
        checks=_compared(exported.parity) | _simulated(export, outcome, path, test.image),
        float_ops=_float_ops(flatbuffer.read(path)),
    ), answers


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
