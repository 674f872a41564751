"""Rehearsal: one update of a stage traced on shapes alone, so that what cannot be trained is told beforehand.

Nothing is computed. Each part that a recipe brings is named where it fails, the loss above all.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmini import steps
from jaxmini.data import Dataset, Normalization, batch_at
from jaxmini.losses.loss import LossLike, Signals
from jaxmini.model import Model, Variables
from jaxmini.near_miss import did_you_mean
from jaxmini.run import process
from jaxmini.run.outcome import total_steps
from jaxmini.run.stage import Contrastive, Distill, Stage, Supervised
from jaxmini.state import Array, Batch, Metrics

# They ask no more of a model than its outputs. The step of a kind of one's own is not rehearsed.
REHEARSED = (Contrastive.step, Supervised.step, Distill.step)


class RehearsalError(ValueError):
    """A stage cannot make an update; the message names the stage and its part that fails."""


def rehearse(
    stage: Stage,
    dataset: Dataset,
    normalization: Normalization,
    variables: Variables,
    frozen: Variables,
) -> None:
    """Trace one update of a stage, with its own view, loss and teacher, and its model in float.

    Gradients of the model and what optax makes of them are left out, and are most of a step's trace.

    Args:
        stage: to be trained.
        dataset: its pictures.
        normalization: of the chain's networks.
        variables: of the stage's float model; shapes are enough.
        frozen: of its teacher's network, if it has one; shapes are enough.

    Raises:
        RehearsalError: a part of the stage fails, or gives what the step cannot use.
    """
    if type(stage).step not in REHEARSED:
        return
    loss = _told_loss(stage)
    _require_optimizer(stage, dataset, variables)
    state = steps.start(optax.identity(), jax.random.key(stage.seed), {"params": jnp.float32(0)})
    with failing(stage, "step"):
        told = dataclasses.replace(stage, loss=loss, view=_told(stage, "view", stage.view))
        step = told.step(_stand_in(stage, variables), optax.identity(), normalization)
        jax.eval_shape(step, state, frozen, _batch(stage, dataset))


@contextlib.contextmanager
def failing(stage: Stage, part: str, **given: Mapping[str, Array]) -> Iterator[None]:
    """Say of an error in which part of a stage it came up, unless that has been said.

    Args:
        stage, part: whose error it is.
        given: mappings that the part reads, for an error that names a key alone.

    Raises:
        RehearsalError: for any error.
    """
    try:
        yield
    except RehearsalError:
        raise
    except Exception as error:
        where = "" if process.is_told(error) else f" {process.SHOWS_WHERE}"
        raise RehearsalError(
            f"stage {stage.name!r}: its {part} failed with {_text(error, given)}{where}"
        ) from error


def _text(error: Exception, given: Mapping[str, Mapping[str, Array]]) -> str:
    """The error's type and message; the message of a bare KeyError is what there is in place of the key."""
    kind, text = type(error).__name__, str(error)
    if isinstance(error, KeyError) and error.args:
        (key, *_), names = error.args, [name for keys in given.values() for name in keys]
        if " " in str(key):  # a sentence, of which a KeyError's own text is the repr
            return f"{kind}: {key}"
        text += "".join(f"; {what}: {', '.join(sorted(keys))}" for what, keys in given.items())
        text += did_you_mean(key, names)
    return f"{kind}: {text}" if text else kind


def _told(stage: Stage, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose errors say that it is that part of the stage."""

    @functools.wraps(function)
    def told(*args: object, **options: object) -> object:
        with failing(stage, part):
            return function(*args, **options)

    return told


def _told_loss(stage: Stage) -> LossLike:
    """The stage's loss, which says what it lacks and whether its answer can be used."""
    loss = stage.loss

    @functools.wraps(loss)
    def told(signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
        with failing(stage, "loss", signals=signals, batch=batch):
            answer = loss(signals, batch)
        _require_answer(stage, answer)
        return answer

    return told


def _require_answer(stage: Stage, answer: object) -> None:
    """See that a loss has returned a scalar and its metrics."""
    where = f"stage {stage.name!r}: its loss returns {_shown(answer)}"
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    if not (is_pair and isinstance(answer[1], Mapping)):
        raise RehearsalError(
            f"{where}, expected (scalar, metrics): return value, {{}} where there is nothing to report"
        )
    value = answer[0]
    if not isinstance(value, float) and getattr(value, "shape", None) != ():
        raise RehearsalError(
            f"{where}, expected a scalar first: of one value an example take the mean"
        )
    if not isinstance(value, float) and not jnp.issubdtype(value.dtype, jnp.floating):
        raise RehearsalError(f"{where}, expected a float first: integers have no gradient")


def _shown(value: object) -> str:
    """What kind of value that is: ``float32[8, 10]``, a tuple of such, else its type."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_shown, value))})"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__


def _stand_in(stage: Stage, variables: Variables) -> Model:
    """A Model of one parameter that answers in the shapes of the stage's float one in training."""
    real = stage.float_model()
    shapes = functools.partial(jax.eval_shape, functools.partial(real.apply, train=True), variables)

    def apply(
        own: Variables, inputs: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, Variables]:
        with failing(stage, "model"):
            outputs, _ = shapes(inputs, key=key)
        return jax.tree.map(
            lambda leaf: jnp.full(leaf.shape, own["params"], leaf.dtype), outputs
        ), {}

    return Model(real.init, apply)


def _require_optimizer(stage: Stage, dataset: Dataset, variables: Variables) -> None:
    """See that the stage's optimizer can be made, and takes its parameters."""
    with failing(stage, "optimizer"):
        optimizer = stage.optimizer(total_steps(stage, dataset.train))
        jax.eval_shape(optimizer.init, variables["params"])


def _batch(stage: Stage, dataset: Dataset) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch as the loop gives it."""
    return {
        name: jax.ShapeDtypeStruct((stage.batch_size, *rows.shape[1:]), rows.dtype)
        for name, rows in batch_at(dataset.train, 1, stage.seed, 0).items()
    }
