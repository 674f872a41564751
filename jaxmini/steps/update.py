"""What every step has in common: the first state, the inputs of a batch, and one optimizer update."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxmini import axis
from jaxmini.model import FIGURES, PENALTIES, Model, Variables
from jaxmini.state import Array, Batch, Metrics, PyTree, State

Step: TypeAlias = Callable[[State, PyTree, Batch], tuple[State, Metrics]]
Objective: TypeAlias = Callable[[PyTree], tuple[Array, tuple[Variables, Metrics]]]


class Inputs(Protocol):
    """What a network sees of a batch: its pictures under the view of that number, float [B, ...].

    ``key`` is the run's base key; an implementation folds in whatever makes an example's view its own.
    """

    def __call__(self, key: Array, batch: Batch, view_index: int) -> Array: ...


def images_as_they_are(key: Array, batch: Batch, view_index: int) -> Array:
    """Inputs of data that needs no view: ``batch["image"]``, already float."""
    del key, view_index
    return batch["image"]


def start(
    optimizer: optax.GradientTransformation, key: Array, variables: Variables, carry: PyTree = None
) -> State:
    """The state before the first update.

    Args:
        optimizer: moves ``variables["params"]``; the other collections change by the model's own updates.
        key: base key of the run, typed [].
        variables: what ``Model.init`` returned, or the end of an earlier stage.
        carry: what the objective carries from step to step, if anything.
    """
    params = variables["params"]
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    carry = {} if carry is None else carry
    return State(jnp.int32(0), key, params, collections, optimizer.init(params), carry)


def train_forward(
    model: Model, state: State, params: PyTree, inputs: Array
) -> tuple[Array, Variables]:
    """``model.apply`` in training, with the step's own dropout key."""
    key = jax.random.fold_in(state.key, state.step)
    if axis.is_mapped():  # the base key is the same on every device; the masks must not be
        key = jax.random.fold_in(key, jax.lax.axis_index(axis.AXIS))
    return model.apply({**state.variables, "params": params}, inputs, train=True, key=key)


def update(
    state: State, objective: Objective, optimizer: optax.GradientTransformation
) -> tuple[State, Metrics]:
    """One optimizer update of ``objective(params) -> (loss, (changed collections, metrics))``.

    Penalties among the changed collections are added to the loss, figures to the metrics.

    The mean over the devices is taken of the loss inside the differentiated function and of the gradients
    after: the one form that gives the whole batch's gradient under jit, pmap and both modes of shard_map.

    Returns:
        The next state, and the metrics with ``loss`` and ``grad_norm`` added, all float32 [].
    """

    def loss_fn(params: PyTree) -> tuple[Array, tuple[Variables, Metrics]]:
        loss, (changed, metrics) = objective(params)
        changed, penalty, told = _told(changed)
        return axis.mean(loss + penalty), (changed, {**told, **metrics})

    (loss, (changed, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads = axis.mean(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        collections={**state.collections, **changed},
        opt_state=opt_state,
    )
    return state, {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}


def _told(changed: Variables) -> tuple[Variables, Array, Metrics]:
    """The collections to keep, the sum of the model's own penalties, and what it reports by name."""
    kept = {name: tree for name, tree in changed.items() if name not in (PENALTIES, FIGURES)}
    told = changed.get(PENALTIES, {}), changed.get(FIGURES, {})
    penalty = sum(jax.tree.leaves(told[0]), jnp.float32(0))
    named = jax.tree_util.tree_leaves_with_path(told)
    return kept, penalty, {"/".join(str(k.key) for k in path[1:]): leaf for path, leaf in named}
