"""Outcome: what a finished stage leaves behind, and how a stage gets from its start to there."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview

from jaxmini import steps
from jaxmini.compress import quantize
from jaxmini.data import Dataset, Normalization, Order, Split, batch_at
from jaxmini.evaluate.accuracy import accuracy, predict_all
from jaxmini.evaluate.cost import cost
from jaxmini.export.artifact import Artifact, load, predict, save
from jaxmini.model import Model, Variables, body_of
from jaxmini.record import digest
from jaxmini.run import together
from jaxmini.run.log import Log
from jaxmini.run.loop import Schedule, train
from jaxmini.run.recording import stage_record
from jaxmini.run.report.content import Curve, StageResult
from jaxmini.run.stage import Contrastive, Distill, PostTraining, Stage
from jaxmini.run.workdir import Workdir
from jaxmini.state import State
from jaxmini.steps.placement import Placed
from jaxmini.steps.update import Step

# Pictures whose ranges calibrate a net before it is trained in integers.
CALIBRATION_PICTURES = 2048
EVALUATION_BATCH = 250
# How often in a stage: these change what is seen and how much a kill costs, never what is computed.
LOGS, EVALUATIONS, SAVES = 50, 5, 8


class Outcome(NamedTuple):
    """A stage that is done: its trained artifact and its figures."""

    stage: Stage
    artifact: Artifact
    result: StageResult


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a stage needs of the run it belongs to.

    Attributes:
        workdir: where checkpoints and results go.
        log: told of everything.
        place: puts a step on its devices.
        normalization: of all the chain's networks.
        told_to_stop: asked after every step.
    """

    workdir: Workdir
    log: Log
    place: Callable[[Step], Placed]
    normalization: Normalization
    told_to_stop: Callable[[], bool] = lambda: False


def complete(stage: Stage, before: Mapping[str, Outcome], around: Surroundings) -> Outcome:
    """The stage's outcome: read back if an earlier run has finished it, trained otherwise.

    Args:
        stage: to complete.
        before: outcomes of the stages it needs, by name.
        around: the run.

    Raises:
        ValueError: a finished stage's file was changed, or the pictures of one that was begun have.
    """
    workdir, folder = around.workdir, around.workdir.stage_folder(stage.name)
    measured, dataset = workdir.finished(stage.name), stage.data.load()
    if measured is None:
        model = stage.network(around.normalization)
        state, seconds = _train(stage, model, dataset, before, around)
        artifact = _artifact(stage, model, state, dataset, before, around.normalization)
        if together.leads():
            save(artifact, folder / "artifact")
        measured = _measure(stage, artifact, dataset) | {
            "steps": int(state.step),
            "seconds": seconds,
        }
        workdir.mark_finished(stage.name, measured)
    else:
        around.log.event(f"{stage.name}: finished by an earlier run")
        artifact = load(folder / "artifact")
        _require_same_pictures(stage, artifact, dataset)
    return Outcome(stage, artifact, _result(stage, measured, around.log))


def logits_of(outcome: Outcome, images: np.ndarray) -> np.ndarray:
    """The stage's network's answers to uint8 pictures [N, H, W, C], float32 [N, classes]."""
    return predict_all(predict(outcome.artifact), images, EVALUATION_BATCH)


def total_steps(stage: Stage, split: Split) -> int:
    """How many updates a stage makes on its training pictures, at least 1."""
    order = Order(len(split), stage.batch_size, stage.seed)
    return max(1, round(stage.epochs * order.steps_per_epoch))


def _train(
    stage: Stage,
    model: Model,
    dataset: Dataset,
    before: Mapping[str, Outcome],
    around: Surroundings,
) -> tuple[State, float]:
    """The state after the stage's last step, and the seconds that took."""
    split = dataset.train
    key = jax.random.key(stage.seed)
    variables = _first_variables(stage, model, dataset, before, around.normalization)
    _overview(variables, stage, around)
    if isinstance(stage, PostTraining):
        variables, seconds = _post_trained(stage, model, variables, dataset, around)
        return steps.start(optax.identity(), key, variables), seconds
    total = total_steps(stage, split)
    optimizer = stage.optimizer(total)
    state = steps.start(optimizer, key, variables)
    frozen = before[stage.teacher.name].artifact.variables if isinstance(stage, Distill) else {}
    around.log.event(
        f"{stage.name}: {total:,} steps of {stage.batch_size} pictures of {dataset.name}"
    )
    return train(
        stage.name,
        around.place(stage.step(model, optimizer, around.normalization)),
        state,
        frozen,
        _pictures(dataset),
        lambda step: batch_at(split, stage.batch_size, stage.seed, step),
        _schedule(total),
        _evaluator(stage, model, dataset, around.normalization),
        around.workdir.stage_folder(stage.name),
        around.log,
        around.told_to_stop,
    )


def _post_trained(
    stage: PostTraining,
    model: Model,
    variables: Variables,
    dataset: Dataset,
    around: Surroundings,
) -> tuple[Variables, float]:
    """The variables after each method, and the seconds that took."""
    started = time.perf_counter()
    batches = _calibration_batches(dataset, around.normalization, stage.pictures)
    for method in stage.methods:
        around.log.event(f"{stage.name}: {method!r} on {sum(map(len, batches)):,} pictures")
        variables = method(model, variables, batches)
    return variables, time.perf_counter() - started


def _overview(variables: Variables, stage: Stage, around: Surroundings) -> None:
    """Write what the network is made of, a line a parameter."""
    if together.leads():
        text = parameter_overview.get_parameter_overview(variables["params"], include_stats=False)
        (around.workdir.stage_folder(stage.name) / "parameters.txt").write_text(text + "\n")


def _first_variables(
    stage: Stage,
    model: Model,
    dataset: Dataset,
    before: Mapping[str, Outcome],
    normalization: Normalization,
) -> Variables:
    """Fresh variables, with those of the stage it starts from and calibrated where that is asked for."""
    images = normalization(jnp.asarray(dataset.train.image[:1]))
    key = jax.random.fold_in(jax.random.key(stage.seed), 0)
    variables = jax.jit(stage.float_model().init)(key, images)
    if stage.start is not None:
        variables = transfer(variables, before[stage.start.name].artifact.variables, stage)
    if stage.quantize is None:
        return variables
    batches = _calibration_batches(dataset, normalization, CALIBRATION_PICTURES)
    return quantize.calibrate(model, variables, batches)


def _calibration_batches(
    dataset: Dataset, normalization: Normalization, count: int
) -> list[jax.Array]:
    """The first training pictures as a network takes them."""
    pictures = dataset.train.image[:count]
    return [
        normalization(jnp.asarray(pictures[i : i + EVALUATION_BATCH]))
        for i in range(0, len(pictures), EVALUATION_BATCH)
    ]


def transfer(fresh: Variables, trained: Variables, stage: Stage) -> Variables:
    """The variables a stage starts with: all of its start's, or the body's if the heads differ.

    Only shapes and dtypes are read. What quantization keeps in a start stays behind.

    Raises:
        ValueError: neither the whole nor the body has the same structure and shapes.
    """
    trained = {name: tree for name, tree in quantize.floats_of(trained).items() if name in fresh}
    if _shapes(fresh) == _shapes(trained):
        return trained
    ours, theirs = body_of(fresh), body_of(trained)
    if ours is None or theirs is None or _shapes(ours) != _shapes(theirs):
        raise ValueError(
            f"stage {stage.name!r} cannot start from {stage.start.name!r}: their models have other "
            "parameters; build both as with_head(body, head) with one body, or give no start"
        )
    return {
        name: tree | {"body": theirs[name]} if name in theirs else tree
        for name, tree in fresh.items()
    }


def _shapes(variables: Variables) -> dict[str, tuple]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    return {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}


def _schedule(total: int) -> Schedule:
    every = lambda times: -(-total // times)  # noqa: E731
    return Schedule(total, every(LOGS), every(SAVES), every(EVALUATIONS))


def _evaluator(
    stage: Stage, model: Model, dataset: Dataset, normalization: Normalization
) -> Callable[[State], dict[str, float]]:
    """Accuracy on the test split of a state's variables; nothing for a stage without logits."""
    if not _has_logits(stage) or not len(dataset.test):
        return lambda state: {}
    test = dataset.test

    @jax.jit
    def forward(variables: Variables, images: jax.Array) -> jax.Array:
        return model.apply(variables, normalization(images))[0]

    def evaluate(state: State) -> dict[str, float]:
        answers = predict_all(
            functools.partial(forward, state.variables), test.image, EVALUATION_BATCH
        )
        return {"accuracy": accuracy(answers, test.label)}

    return evaluate


def _has_logits(stage: Stage) -> bool:
    return not isinstance(stage, Contrastive)


def _artifact(
    stage: Stage,
    model: Model,
    state: State,
    dataset: Dataset,
    before: Mapping[str, Outcome],
    normalization: Normalization,
) -> Artifact:
    made_from = {needed.name: before[needed.name].artifact.fingerprint() for needed in stage.needs}
    return Artifact(
        model=model,
        variables=jax.device_get(state.variables),
        labels=dataset.labels if _has_logits(stage) else (),
        normalization=normalization,
        input_shape=dataset.train.shape,
        provenance={
            "stage": stage.name,
            "recipe": digest(stage_record(stage)),
            "data": _pictures(dataset),
            **{f"from {name}": value for name, value in made_from.items()},
        },
    )


def _pictures(dataset: Dataset) -> str:
    """Name and digest of what a stage is trained and measured on."""
    return f"{dataset.name} {dataset.fingerprint()}"


def _require_same_pictures(stage: Stage, artifact: Artifact, dataset: Dataset) -> None:
    if artifact.provenance["data"] != _pictures(dataset):
        raise ValueError(
            f"stage {stage.name!r} was finished on {artifact.provenance['data']}, and its data are now "
            f"{_pictures(dataset)}: bring those pictures back, or start over with --fresh"
        )


def _measure(stage: Stage, artifact: Artifact, dataset: Dataset) -> dict[str, object]:
    test = dataset.test
    measured = None
    if _has_logits(stage) and len(test):
        answers = predict_all(predict(artifact), test.image, EVALUATION_BATCH)
        measured = accuracy(answers, test.label)
    price = cost(stage.float_model(), artifact.input_shape)
    unlabelled = isinstance(stage, Contrastive | PostTraining)
    labels = 0 if unlabelled else int(np.sum(dataset.train.label >= 0))
    return {
        "accuracy": measured,
        "data": dataset.name,
        "labels_used": labels,
        "params": price.params,
        "macs": price.macs,
    }


def _result(stage: Stage, measured: Mapping[str, object], log: Log) -> StageResult:
    kind = type(stage).__name__.lower()
    return StageResult(
        name=stage.name,
        kind=kind if stage.quantize is None else f"quantize + {kind}",
        against=None if stage.against is None else stage.against.name,
        curves=tuple(Curve(name, *points) for name, points in log.curves(stage.name).items()),
        note=stage.note,
        **measured,
    )
