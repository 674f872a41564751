"""Model: a pair of pure functions, and the bridge from any linen module to one.

Everything that changes a model (quantization, a new head, another dtype) is a function Model -> Model.
The functions in the pair are ``functools.partial`` objects of module-level functions, so a Model prints,
pickles and can be written into the record of a run.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax

from jaxmini import axis
from jaxmini.state import PyTree

Variables = dict[str, PyTree]

# Two kinds of updates that are not variables: a step adds up the first into its objective and reports the
# second, both as ``{name: float32 []}``, nested or not.
PENALTIES, FIGURES = "penalties", "figures"

# How linen modules in the wild call the switch between training and inference, and the value of each
# while training.
TRAIN_ARGUMENTS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


class Init(Protocol):
    """A key and inputs to the first variables."""

    def __call__(self, key: jax.Array, inputs: PyTree) -> Variables: ...


class Apply(Protocol):
    """Variables and inputs to outputs and the collections that training changed."""

    def __call__(
        self,
        variables: Variables,
        inputs: PyTree,
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[PyTree, Variables]: ...


class Model(NamedTuple):
    """``init(key, inputs) -> variables``, ``apply(variables, inputs, train=, key=) -> (outputs, updates)``.

    ``variables`` is linen's dict of collections (``params``, ``batch_stats``, ``quant``); ``updates`` holds
    the collections that a training call changed, and is empty when ``train`` is false. It may hold
    ``penalties``, terms of the objective that are the model's own, and ``figures`` to report.
    """

    init: Init
    apply: Apply


def from_linen(module: nn.Module) -> Model:
    """A Model of any linen module, untouched.

    The module's ``__call__`` takes the inputs and, if it behaves differently in training, one of the
    arguments ``train``, ``training``, ``is_training``, ``deterministic``, ``use_running_average``.
    BatchNorm sees the whole batch in every placement: under pmap its statistics are averaged over the
    devices, whether or not the module was built with an ``axis_name``.

    Raises:
        TypeError: ``module`` is not an instance of ``nn.Module`` (a class was given, say).
    """
    if not isinstance(module, nn.Module):
        hint = (
            " an instance: add () to the class"
            if inspect.isclass(module)
            else " a flax.linen module"
        )
        raise TypeError(f"from_linen: got {module!r}, expected{hint}")
    return Model(functools.partial(_linen_init, module), functools.partial(_linen_apply, module))


def as_model(model: Model | nn.Module) -> Model:
    """The Model itself, or the Model of a linen module."""
    return model if isinstance(model, Model) else from_linen(model)


def with_head(body: Model | nn.Module, head: Model | nn.Module) -> Model:
    """A Model that feeds what ``body`` returns to ``head``.

    Every collection of its variables holds ``{"body": ..., "head": ...}``, so the body of one model can
    start another that has a different head: a projector in pretraining, a classifier after it.
    """
    body, head = as_model(body), as_model(head)
    return Model(
        functools.partial(_headed_init, body, head), functools.partial(_headed_apply, body, head)
    )


def body_of(variables: Variables) -> Variables | None:
    """The body's variables of a model made by ``with_head``; None for a model of one piece."""
    if set(variables["params"]) != {"body", "head"}:
        return None
    return {name: tree["body"] for name, tree in variables.items() if "body" in tree}


def train_argument(module: nn.Module) -> str | None:
    """The name of the module's training switch; None if it has none or was built with it set."""
    names = inspect.signature(type(module).__call__).parameters
    free = (name for name in TRAIN_ARGUMENTS if getattr(module, name, None) is None)
    return next((name for name in free if name in names), None)


def _switch(module: nn.Module, train: bool) -> dict[str, bool]:
    name = train_argument(module)
    return {} if name is None else {name: TRAIN_ARGUMENTS[name] is train}


def _linen_init(module: nn.Module, key: jax.Array, inputs: PyTree) -> Variables:
    return dict(module.init(key, inputs, **_switch(module, False)))


def _linen_apply(
    module: nn.Module,
    variables: Variables,
    inputs: PyTree,
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> tuple[PyTree, Variables]:
    switch = _switch(module, train)
    if not train:
        return module.apply(variables, inputs, **switch), {}
    mutable = [name for name in variables if name != "params"]
    rngs = None if key is None else {"dropout": key}
    with nn.intercept_methods(_synchronise_batch_norm):
        outputs, updates = module.apply(variables, inputs, mutable=mutable, rngs=rngs, **switch)
    return outputs, dict(updates)


def _synchronise_batch_norm(
    next_method: Callable, args: tuple, kwargs: dict, context: Any
) -> PyTree:
    """Give BatchNorm the mapped axis where there is one (a linen interceptor)."""
    module = context.module
    if isinstance(module, nn.BatchNorm) and context.method_name == "__call__" and axis.is_mapped():
        object.__setattr__(module, "axis_name", axis.AXIS)  # linen modules are frozen dataclasses
    return next_method(*args, **kwargs)


def _headed_init(body: Model, head: Model, key: jax.Array, inputs: PyTree) -> Variables:
    body_key, head_key = jax.random.split(key)
    variables = body.init(body_key, inputs)
    features, _ = jax.eval_shape(body.apply, variables, inputs)
    features = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), features)
    return _join(variables, head.init(head_key, features))


def _headed_apply(
    body: Model,
    head: Model,
    variables: Variables,
    inputs: PyTree,
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> tuple[PyTree, Variables]:
    body_key, head_key = (None, None) if key is None else jax.random.split(key)
    features, body_updates = body.apply(_part(variables, "body"), inputs, train=train, key=body_key)
    outputs, head_updates = head.apply(
        _part(variables, "head"), features, train=train, key=head_key
    )
    # A collection that only one part changed keeps the other part's values.
    updates = _join(body_updates, head_updates)
    return outputs, {name: {**variables.get(name, {}), **tree} for name, tree in updates.items()}


def _part(variables: Variables, part: str) -> Variables:
    return {name: tree[part] for name, tree in variables.items() if part in tree}


def _join(body: Variables, head: Variables) -> Variables:
    parts = {"body": body, "head": head}
    return {
        name: {part: tree[name] for part, tree in parts.items() if name in tree}
        for name in {**body, **head}
    }
