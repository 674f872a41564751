"""The contrastive step: two views of every picture, no labels (SimCLR, Chen et al. 2020)."""

import jax.numpy as jnp
import optax

from jaxmini import axis
from jaxmini.losses.loss import LossLike
from jaxmini.model import Model, Variables
from jaxmini.state import Array, Batch, Metrics, PyTree, State
from jaxmini.steps.update import Inputs, Step, images_as_they_are, train_forward, update


def contrastive(
    model: Model,
    loss: LossLike,
    optimizer: optax.GradientTransformation,
    *,
    inputs: Inputs = images_as_they_are,
) -> Step:
    """A step that pulls the embeddings of two views of a picture together and others apart.

    Both views go through the network as one batch, so its BatchNorm sees both. The loss gets the signals
    ``view_0`` and ``view_1``: embeddings [B, D] of the whole batch in the same order. ``frozen`` is not used.
    """

    def step(state: State, frozen: PyTree, batch: Batch) -> tuple[State, Metrics]:
        del frozen
        views = jnp.concatenate([inputs(state.key, batch, 0), inputs(state.key, batch, 1)])

        def objective(params: PyTree) -> tuple[Array, tuple[Variables, Metrics]]:
            embeddings, changed = train_forward(model, state, params, views)
            view_0, view_1 = jnp.split(embeddings, 2)
            signals = axis.gather({"view_0": view_0, "view_1": view_1})
            value, metrics = loss(signals, axis.gather(batch))
            return value, (changed, metrics)

        return update(state, objective, optimizer)

    return step
