"""Delivery: a stage's outcome to a .tflite file, checked against the training and measured by running it."""

import dataclasses

import numpy as np

from jaxmini.data import Split
from jaxmini.evaluate.accuracy import accuracy, predict_all
from jaxmini.evaluate.fidelity import agreement
from jaxmini.evaluate.runtime import latency, tflite_predict
from jaxmini.export.parity import Parity
from jaxmini.export.tflite import tflite
from jaxmini.run.outcome import Outcome, Surroundings, logits_of
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
    exported = tflite(outcome.artifact, path, variant=export.variant, backend=export.backend)
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
        latency_ms=timing.median,
        latency_spread=timing.high - timing.low,
        ops=dict(exported.ops),
        checks=_compared(exported.parity),
    ), answers


def _compared(parity: Parity | None) -> dict[str, str]:
    """What the exporter found when it read the file back (it refuses a file in which anything differs)."""
    counts = {} if parity is None else dataclasses.asdict(parity)
    return {
        name.replace("_", " "): f"{count:,} compared, 0 differ" for name, count in counts.items()
    }
