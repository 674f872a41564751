"""Forms: what models write in several ways, in the one way that rules know."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from jaxmini.state import Array

POOLS = frozenset({"reduce_window_max", "reduce_window_sum"})


def form_of(equation: Any) -> Callable[..., Array] | None:
    """The function of an equation's operands in its usual form; None where the equation has it."""
    if equation.primitive.name == "clamp":
        return _clamp
    if equation.primitive.name == "abs" and _is_float(equation):
        return _abs
    if equation.primitive.name in POOLS and _is_of_sequences(equation.params):
        return functools.partial(_pooled, equation.primitive, equation.params)
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


def _is_of_sequences(params: Mapping[str, Any]) -> bool:
    """Whether windows are along the middle one of three axes."""
    window = params["window_dimensions"]
    return len(window) == 3 and window[0] == window[2] == 1


def _pooled(pool: core.Primitive, params: Mapping[str, Any], values: Array) -> jax.Array:
    """A pool of sequences [B, T, C] as that of pictures [B, 1, T, C]."""
    batch, *rest = values.shape
    numbers = {
        name: (sizes[0], (0, 0) if name == "padding" else 1, *sizes[1:])
        for name, sizes in params.items()
    }
    result = pool.bind(lax.reshape(values, (batch, 1, *rest)), **numbers)
    batch, _, *rest = result.shape
    return lax.reshape(result, (batch, *rest))


def _clamp(low: Array, values: Array, high: Array) -> Array:
    return jnp.minimum(jnp.maximum(values, low), high)


def _abs(values: Array) -> Array:
    return jnp.maximum(values, -values)


def _hard_tanh(values: Array) -> Array:
    return jnp.clip(values, -1.0, 1.0)


_FUNCTIONS = {"hard_tanh": _hard_tanh}
