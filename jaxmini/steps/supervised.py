"""The supervised step: a model, its pictures, their labels."""

import optax

from jaxmini import axis
from jaxmini.losses.loss import LossLike
from jaxmini.model import Model, Variables
from jaxmini.state import Array, Batch, Metrics, PyTree, State
from jaxmini.steps.update import Inputs, Step, images_as_they_are, train_forward, update


def supervised(
    model: Model,
    loss: LossLike,
    optimizer: optax.GradientTransformation,
    *,
    inputs: Inputs = images_as_they_are,
) -> Step:
    """A step that trains ``model`` on labelled pictures.

    The loss gets the signal ``student``: the model's outputs for the whole batch. ``frozen`` is not used.
    """

    def step(state: State, frozen: PyTree, batch: Batch) -> tuple[State, Metrics]:
        del frozen
        images = inputs(state.key, batch, 0)

        def objective(params: PyTree) -> tuple[Array, tuple[Variables, Metrics]]:
            logits, changed = train_forward(model, state, params, images)
            value, metrics = loss(axis.gather({"student": logits}), axis.gather(batch))
            return value, (changed, metrics)

        return update(state, objective, optimizer)

    return step
