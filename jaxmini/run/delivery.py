"""Delivery: a stage's outcome to a .tflite file, checked against the training and measured by running it."""

import numpy as np

from jaxmini.compress import quantize
from jaxmini.data import Split
from jaxmini.evaluate.accuracy import accuracy, predict_all
from jaxmini.evaluate.fidelity import agreement
from jaxmini.evaluate.runtime import latency, tflite_predict
from jaxmini.export import parity
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
    checks = _prove(export, outcome, path, test) if export.variant == "int8" else {}
    answers = predict_all(tflite_predict(path), test.image)
    timing = latency(path)
    return FileResult(
        name=export.file_name,
        variant=export.variant,
        backend=export.backend,
        bytes=path.stat().st_size,
        made_from=export.stage.name,
        accuracy=accuracy(answers, test.label),
        agreement=agreement(logits_of(outcome, test.image), answers),
        latency_ms=timing.median,
        latency_spread=timing.high - timing.low,
        ops=dict(exported.ops),
        checks=checks,
    ), answers


def _prove(export: Export, outcome: Outcome, path: object, test: Split) -> dict[str, str]:
    """What comparing the file with the trained integers found, in words."""
    artifact = outcome.artifact
    plan = quantize.make_plan(artifact.model, artifact.variables, artifact.input_spec(1))
    frozen = quantize.freeze(plan, artifact.variables)
    return parity.check(path, plan, frozen)
