"""Forms: what models write in several ways, in the one way that rules know."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmini.state import Array


def form_of(equation: Any) -> Callable[..., Array] | None:
    """The function of an equation's operands in its usual form; None where the equation has it."""
    if equation.primitive.name == "clamp":
        return _clamp
    if equation.primitive.name == "abs" and _is_float(equation):
        return _abs
    name = equation.params.get("name")
    if name in _FUNCTIONS and _computes(equation, getattr(jax.nn, name)):
        return _FUNCTIONS[name]
    return None


def _is_float(equation: Any) -> bool:
    return jnp.issubdtype(equation.invars[0].aval.dtype, jnp.floating)


def _computes(equation: Any, function: Callable[[Array], Array]) -> bool:
    """Whether an equation is a call of JAX's own function of that name, and not of another one."""
    if len(equation.invars) != 1:
        return False
    aval = equation.invars[0].aval
    (own,) = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(aval.shape, aval.dtype)).eqns
    return str(own.params.get("jaxpr")) == str(equation.params.get("jaxpr"))


def _clamp(low: Array, values: Array, high: Array) -> Array:
    return jnp.minimum(jnp.maximum(values, low), high)


def _abs(values: Array) -> Array:
    return jnp.maximum(values, -values)


def _hard_tanh(values: Array) -> Array:
    return jnp.clip(values, -1.0, 1.0)


_FUNCTIONS = {"hard_tanh": _hard_tanh}
