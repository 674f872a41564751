"""Tracing: why a model cannot be traced for variables and inputs, said with the module and the way out."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.errors
import flax.linen as nn
import jax

from jaxmini.model import Model, Variables
from jaxmini.state import PyTree

# What JAX raises where a model asks for numbers that only a run gives it.
UNKNOWN_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
# What linen raises where variables are not the module's.
OTHER_VARIABLES = (
    flax.errors.ScopeCollectionNotFound,
    flax.errors.ScopeParamNotFoundError,
    flax.errors.ScopeParamShapeError,
    flax.errors.ScopeVariableNotFoundError,
)
MASKED = "x[mask] is as long as the mask says: write jnp.where(mask, x, 0.0), which keeps the shape"
ASKED = "write `if` on numbers as jnp.where, give nonzero and its like a fixed size=, and call jnp for np"
MOST_NAMES = 3  # of each kind that an error tells


@contextlib.contextmanager
def explained(where: str, model: Model, variables: Variables, inputs: PyTree) -> Iterator[None]:
    """Trace a model inside, and have it said why that cannot be done.

    Args:
        where: what traces, for errors.
        model, variables, inputs: what is traced; arrays or ShapeDtypeStructs.

    Raises:
        ValueError: the model's shapes or choices depend on the numbers it computes (names the module), or
            the variables are not those of the model for such inputs (names them).
    """
    modules = _Modules()
    try:
        with nn.intercept_methods(modules):
            yield
    except UNKNOWN_NUMBERS as error:
        masked = isinstance(error, jax.errors.NonConcreteBooleanIndexError)
        raise ValueError(
            f"{where}: {modules.place} computes a shape, or makes a choice, by numbers that are known only "
            f"when it runs ({type(error).__name__}): {MASKED if masked else ASKED}"
        ) from error
    except OTHER_VARIABLES as error:
        if not (lines := differences(model, variables, inputs)):
            raise
        shapes = ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(inputs))
        raise ValueError(
            f"{where}: the variables are not those of the model for inputs {shapes}: "
            f"{'; '.join(lines)}: give it what its own init made, for inputs of that shape"
        ) from error


def differences(model: Model, variables: Variables, inputs: PyTree) -> list[str]:
    """What is missing of variables, of another shape, or unknown, beside those that ``init`` makes."""
    wanted = _shapes(jax.eval_shape(model.init, jax.random.key(0), inputs))
    given = _shapes(variables)
    other = [
        f"{name} has the shape {given[name]}, and not {shape}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    lines = [f"missing {_some(missing)}"] * bool(missing) + other[:MOST_NAMES]
    return lines + [f"unknown {_some(unknown)}"] * bool(unknown)


class _Modules:
    """Notes the module that an error leaves first (a linen interceptor)."""

    def __init__(self) -> None:
        self.root, self.path = "", None

    @property
    def place(self) -> str:
        path = (self.root, *(self.path or ()))
        return f"the module {'/'.join(path)}" if self.root else "the model"

    def __call__(self, method: Callable, args: tuple, kwargs: dict, context: Any) -> PyTree:
        scope = context.module.scope
        path = () if scope is None else scope.path
        if not path:
            self.root = type(context.module).__name__
        try:
            return method(*args, **kwargs)
        except UNKNOWN_NUMBERS:
            self.path = path if self.path is None else self.path
            raise


def _shapes(variables: Variables) -> dict[str, tuple[int, ...]]:
    """The shape of each array, by its path as ``params/stem/kernel``."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" * (len(names) > MOST_NAMES)
    return ", ".join(names[:MOST_NAMES]) + more
