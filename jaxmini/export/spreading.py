"""Spreading: a function whose transposed convolutions are written as the ordinary ones that they are.

Converters cut the picture of a TRANSPOSE_CONV otherwise than JAX does, so they never see one.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from jaxmini.compress.quantize.program import INLINED
from jaxmini.compress.quantize.upsampling import upsampled
from jaxmini.state import Array

CONVOLUTION = "conv_general_dilated"
# Pictures with channels last, and a kernel HWIO, as ``upsampled`` takes them.
PICTURES = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def without_spreading(function: Callable[..., Any], *inputs: Any) -> Callable[..., Any]:
    """The function with no convolution that spreads its input; itself where there is none.

    One of pictures becomes that of its phases; of groups, of strides too, or along other axes it reads the
    zeros that it would have put between the pixels.

    Args:
        function: pure, of as many arrays as there are ``inputs``.
        inputs: their shapes and dtypes.
    """
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(*inputs)
    if not _spreads(closed.jaxpr):
        return function
    structure = jax.tree.structure(outputs)

    def rewritten(*arrays: Array) -> Any:
        return jax.tree.unflatten(structure, _run(closed.jaxpr, closed.consts, arrays))

    return rewritten


def _spreads(jaxpr: core.Jaxpr) -> bool:
    """Whether a jaxpr, or one inside it, spreads the input of a convolution."""
    return any(
        _is_spreading(equation) or any(_spreads(_open(body)) for body in _bodies(equation.params))
        for equation in jaxpr.eqns
    )


def _is_spreading(equation: Any) -> bool:
    steps = equation.params.get("lhs_dilation", ())
    return equation.primitive.name == CONVOLUTION and any(step != 1 for step in steps)


def _run(jaxpr: core.Jaxpr, consts: Iterable[Array], arguments: Iterable[Array]) -> list[Array]:
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Array:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = _equation(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(equation: Any, operands: list[Array]) -> list[Array]:
    """The results of an equation, of those inside it where it calls any that spread."""
    primitive, params = equation.primitive, equation.params
    if _is_spreading(equation):
        return [_convolved(*operands, params)]
    if any(_spreads(_open(body)) for body in _bodies(params)):
        if primitive.name in INLINED or primitive.name.startswith("custom_"):
            body = params.get("jaxpr", params.get("call_jaxpr"))
            return _run(_open(body), getattr(body, "consts", ()), operands)
        params = {name: _rewritten(value) for name, value in params.items()}
    results = primitive.bind(*operands, **primitive.get_bind_params(params))
    return list(results) if primitive.multiple_results else [results]


def _rewritten(value: Any) -> Any:
    """A parameter with the jaxprs in it rewritten: the body of a loop, the branches of a choice."""
    if isinstance(value, tuple | list):
        return type(value)(map(_rewritten, value)) if any(map(_is_closed, value)) else value
    if not _is_closed(value):
        return value

    def body(*arrays: Array) -> list[Array]:
        return _run(value.jaxpr, value.consts, arrays)

    return jax.make_jaxpr(body)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in value.in_avals))


def _is_closed(value: Any) -> bool:
    return isinstance(value, core.ClosedJaxpr)


def _bodies(params: Mapping[str, Any]) -> list[Any]:
    """The jaxprs among some parameters."""
    listed = [v if isinstance(v, tuple | list) else (v,) for v in params.values()]
    return [value for values in listed for value in values if hasattr(_open(value), "eqns")]


def _open(jaxpr: Any) -> core.Jaxpr:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _convolved(inputs: Array, kernel: Array, params: Mapping[str, Any]) -> jax.Array:
    if _has_phases(params) and params["preferred_element_type"] in (None, inputs.dtype):
        return upsampled(inputs, kernel, params)
    axes = params["dimension_numbers"].lhs_spec[2:]
    for axis, step in zip(axes, params["lhs_dilation"], strict=True):
        inputs = _spread(inputs, axis, step)
    ones = (1,) * len(axes)
    return lax.conv_general_dilated_p.bind(inputs, kernel, **{**params, "lhs_dilation": ones})


def _has_phases(params: Mapping[str, Any]) -> bool:
    """Whether it is one of pictures, without groups and strides."""
    return (
        params["dimension_numbers"] == PICTURES
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and all(step == 1 for step in params["window_strides"])
    )


def _spread(values: Array, axis: int, step: int) -> jax.Array:
    """The values with ``step - 1`` zeros between neighbours along an axis."""
    size, shape = values.shape[axis], values.shape
    rows = values.reshape(*shape[: axis + 1], 1, *shape[axis + 1 :])
    zeros = jnp.zeros((*shape[: axis + 1], step - 1, *shape[axis + 1 :]), values.dtype)
    spread = jnp.concatenate([rows, zeros], axis + 1)
    spread = spread.reshape(*shape[:axis], size * step, *shape[axis + 1 :])
    return lax.slice_in_dim(spread, 0, (size - 1) * step + 1, axis=axis)
