"""Widening: a model that computes in bfloat16 or float16, planned as if it computed in float32.

The roundings of half precision are not in the integer file, so they are not in its training either.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxmini.state import Array

HALF = (np.dtype(jnp.bfloat16), np.dtype(np.float16))
CASTS = frozenset({"convert_element_type", "reduce_precision"})

# What runs a jaxpr on wide arrays.
Runner = Callable[[Any], Callable[..., list[Array]]]


def is_half(dtype: Any) -> bool:
    """Whether a dtype is a float of 16 bits."""
    return dtype in HALF


def wide_type(aval: jax.core.ShapedArray) -> jax.core.ShapedArray:
    """The type in float32 if it is a half, else as it is."""
    return aval.update(dtype=np.dtype(np.float32)) if is_half(aval.dtype) else aval


def wide_array(array: Array) -> Array:
    """The numbers in float32 if they are halves, else as they are."""
    return array.astype(jnp.float32) if is_half(array.dtype) else array


def is_float_cast(equation: Any) -> bool:
    """Whether an equation does nothing but change the precision of floats up to 32 bits."""
    if equation.primitive.name not in CASTS:
        return False
    types = [atom.aval.dtype for atom in (*equation.invars, *equation.outvars)]
    return all(is_half(dtype) or dtype == np.float32 for dtype in types)


def widened(equation: Any, runner: Runner) -> tuple[core.Primitive, dict[str, Any]]:
    """The primitive and parameters that compute an equation on wide operands.

    Args:
        runner: makes a function on wide arrays of a closed jaxpr.

    Raises:
        ValueError: the equation has derivatives of its own that cannot be widened.
    """
    primitive, params = equation.primitive, equation.params
    types = [atom.aval.dtype for atom in (*equation.invars, *equation.outvars)]
    if not any(map(is_half, types)):
        return primitive, params
    if primitive.name == "custom_jvp_call" and all(jnp.issubdtype(t, jnp.floating) for t in types):
        return _custom_jvp(equation, runner)
    if primitive.name.startswith("custom_"):
        raise ValueError(
            f"quantize: a {primitive.name} computes in half precision: build the model in float32"
        )
    half = {name: np.dtype(np.float32) for name in params if _names_half(params[name])}
    return primitive, params | half


def _names_half(param: Any) -> bool:
    return isinstance(param, (np.dtype, type)) and is_half(np.dtype(param))


def _custom_jvp(equation: Any, runner: Runner) -> tuple[core.Primitive, dict[str, Any]]:
    """The call with its own derivative, both wide."""
    narrow = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
    wide = [jax.ShapeDtypeStruct(t.shape, jnp.float32) for t in narrow]

    def call(*operands: Array) -> list[Array]:
        return equation.primitive.bind(
            *operands, **equation.primitive.get_bind_params(equation.params)
        )

    derivative = jax.make_jaxpr(lambda primals, tangents: jax.jvp(call, primals, tangents))
    rule = runner(derivative(narrow, narrow))

    @jax.custom_jvp
    def function(*operands: Array) -> list[Array]:
        return runner(equation.params["call_jaxpr"])(*operands)

    @function.defjvp
    def jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[list, list]:
        results = rule(*primals, *tangents)
        return results[: len(results) // 2], results[len(results) // 2 :]

    (made,) = jax.make_jaxpr(function)(*wide).eqns
    return made.primitive, made.params
