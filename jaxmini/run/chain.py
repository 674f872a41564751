"""The chain: every stage of a recipe in order, its files, its report. Read it to know what a run does."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmini.data import Split, measure
from jaxmini.evaluate.accuracy import confusion
from jaxmini.evaluate.fidelity import agreement, mean_kl
from jaxmini.export import whole
from jaxmini.run import process, ready, together
from jaxmini.run.delivery import deliver
from jaxmini.run.gates import asks_for_micro
from jaxmini.run.log import Log
from jaxmini.run.outcome import Outcome, Surroundings, complete, logits_of
from jaxmini.run.recording import record_of
from jaxmini.run.report import storage, summary, table
from jaxmini.run.report.content import Agreement, Link, Mistake, Report
from jaxmini.run.report.pictures import png
from jaxmini.run.stage import Contrastive, Recipe
from jaxmini.run.workdir import Workdir
from jaxmini.run.written import digest_of
from jaxmini.steps import placement as placements

SHOWN_MISTAKES = 24
PACKAGES = (
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "ai-edge-litert",
    "litert-converter",
    "tensorflow-cpu",
    "tflite-micro",
    "onnx",
    "onnxruntime",
)


def run(
    recipe: Recipe,
    folder: Path,
    *,
    title: str,
    command: str,
    placement: str = "jit",
    tensorboard: bool = False,
    fresh: bool = False,
) -> Report | None:
    """Run a recipe to its report, continuing whatever an earlier run in the folder has finished.

    Args:
        recipe: what to do.
        folder: of this run; made if it does not exist.
        title, command: for the report.
        placement: ``jit`` over all devices, or ``pmap`` over this process's.
        tensorboard: write TensorBoard events besides the log.
        fresh: delete an earlier run in the folder first.

    Returns:
        The report; None in a process that does not lead.

    Raises:
        ValueError: the folder holds another recipe's run, or is in use; the recipe cannot be run.
        ImportError: an exporter of the recipe is not installed.
        DivergedError: a loss or gradient is not finite.
        Preempted: told to stop (SIGTERM).
        OSError: the disk is full, say; names the folder.
    """
    normalization = recipe.normalization or measure(recipe.stages[0].data.load().train)
    ready.require(recipe, normalization, jax.device_count())
    # Gates judge what was computed and change none of it: a run goes on, or is judged again, under others.
    computed = {name: part for name, part in record_of(recipe).items() if name != "gates"}
    with (
        Workdir.open(folder, computed, fresh=fresh) as workdir,
        whole.naming(workdir.path),
        contextlib.closing(Log(workdir.path, tensorboard=tensorboard)) as log,
        process.stoppable() as told_to_stop,
    ):
        place = placements.PLACEMENTS[placement]
        around = Surroundings(workdir, log, place, normalization, told_to_stop)
        outcomes: dict[str, Outcome] = {}
        for stage in recipe.stages:
            outcomes[stage.name] = complete(stage, outcomes, around)
        report = _close(recipe, outcomes, around, title, command) if together.leads() else None
        together.meet("report")
        return report


def _close(
    recipe: Recipe, outcomes: dict[str, Outcome], around: Surroundings, title: str, command: str
) -> Report:
    """Deliver the files, compare all answers, judge, write the report."""
    dataset = recipe.stages[-1].data.load()
    test = dataset.test
    delivered = [
        deliver(
            export,
            outcomes[export.stage.name],
            test,
            around,
            on_micro=asks_for_micro(recipe.gates, export),
        )
        for export in recipe.exports
    ]
    answers = {
        name: logits_of(outcome, test.image)
        for name, outcome in outcomes.items()
        if not isinstance(outcome.stage, Contrastive)
    }
    answers |= {file.name: logits for file, logits in delivered}
    content = Report(
        title=title,
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        versions=_versions(),
        recipe=record_of(recipe),
        stages=tuple(outcome.result for outcome in outcomes.values()),
        files=tuple(file for file, _ in delivered),
        labels=dataset.labels,
        fidelity=_fidelity(recipe, answers),
        provenance=_provenance(recipe, outcomes, around.workdir),
    )
    verdicts = tuple(gate.judge(content) for gate in recipe.gates)
    content = dataclasses.replace(content, gates=verdicts)
    if answers:
        # What a person will run is looked at closest: the file of the headline, or the last network.
        best = summary.headline(content)
        shown = best.name if best is not None else list(answers)[-1]
        content = dataclasses.replace(
            content, **_mistakes(shown, answers[shown], test, content.labels)
        )
    storage.write(content, around.workdir.path)
    around.log.event(table.text(summary.closing(content)))
    if content.gates:
        around.log.event(table.text(summary.gates(content)))
        around.log.event(summary.verdict(content))
    around.log.event(f"report: {around.workdir.path / 'report.html'}")
    return content


def _fidelity(recipe: Recipe, answers: dict[str, np.ndarray]) -> tuple[Agreement, ...]:
    """How alike each student is to its teacher, each integer net to its start, each file to its net."""
    pairs = [
        *dict.fromkeys(  # a net that learns from the one it starts from needs it twice
            (needed.name, stage.name)
            for stage in recipe.stages
            for needed in stage.needs
            if {needed.name, stage.name} <= answers.keys()
        ),
        *((export.stage.name, export.file_name) for export in recipe.exports),
    ]
    return tuple(
        Agreement(a, b, agreement(answers[a], answers[b]), mean_kl(answers[a], answers[b]))
        for a, b in pairs
    )


def _mistakes(
    name: str, logits: np.ndarray, test: Split, labels: tuple[str, ...]
) -> dict[str, Any]:
    """The confusion matrix of the answers, and the pictures they were most sure of and wrong."""
    probabilities = np.asarray(jax.nn.softmax(logits))
    predicted, sure = probabilities.argmax(-1), probabilities.max(-1)
    wrong = np.flatnonzero(predicted != test.label)
    shown = wrong[np.argsort(-sure[wrong], kind="stable")][:SHOWN_MISTAKES]
    return {
        "confusion": tuple(map(tuple, confusion(logits, test.label, len(labels)).tolist())),
        "confusion_of": name,
        "mistakes": tuple(
            Mistake(
                int(i), int(test.label[i]), int(predicted[i]), float(sure[i]), png(test.image[i])
            )
            for i in shown
        ),
    }


def _provenance(recipe: Recipe, outcomes: dict[str, Outcome], workdir: Workdir) -> tuple[Link, ...]:
    """What was made from what: data, stages, files, each with the digest of its content."""
    links = {}
    for stage in recipe.stages:
        data = stage.data.load()
        links[data.name] = Link(data.name, data.fingerprint())
        made_from = (data.name, *(needed.name for needed in stage.needs))
        links[stage.name] = Link(stage.name, outcomes[stage.name].artifact.fingerprint(), made_from)
    for export in recipe.exports:
        digest = digest_of(workdir.path / "exports" / export.file_name)[:16]
        links[export.file_name] = Link(export.file_name, digest, (export.stage.name,))
    return tuple(links.values())


def _machine() -> dict[str, str]:
    device = jax.devices()[0]
    return {
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    names = {
        d.metadata["Name"].replace("_", "-"): d.version for d in importlib.metadata.distributions()
    }
    return {name: names[name] for name in PACKAGES if name in names}
