"""Zeros: what sums and products with them are, so that a program does not hold them.

The first carry of a recurrent cell is zeros, as many as there are examples. A plan tells numbers of channels
from others by their shape, so it would be another one for each batch size.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.widening import wide_type

PRODUCTS = frozenset({"mul", "dot_general", "conv_general_dilated"})


class Flattening(Protocol):
    """What gathers operations: ``program.trace``'s own.

    Attributes:
        ops: so far.
        types: shape and dtype of every value.
        active: the values that depend on the input.
        repeated: values that only repeat another along the batch.
    """

    ops: list[Any]
    types: dict[int, jax.core.ShapedArray]
    active: set[int]
    repeated: dict[int, Any]

    def new(self, aval: jax.core.ShapedArray) -> int:
        """A new value of that type."""

    def shape(self, value: Any) -> tuple[int, ...]:
        """The shape of a value."""


def is_zero(value: Any) -> bool:
    """Whether all numbers of a value are floats that were 0 when the program was traced."""
    if isinstance(value, int) or not jnp.issubdtype(value.value.dtype, jnp.floating):
        return False
    return not value.value.any()


def dissolved(flat: Flattening, equation: Any, operands: list[Any]) -> Any | None:
    """What a product or a sum of zeros and a value is, where that is known without it; else None."""
    name = equation.primitive.name
    if name != "add" and name not in PRODUCTS:
        return None
    zeros = [value for value in operands if is_zero(value)]
    if not zeros or not any(isinstance(value, int) for value in operands):
        return None
    result = wide_type(equation.outvars[0].aval)
    if name in PRODUCTS:
        return dataclasses.replace(zeros[0], value=np.zeros(result.shape, result.dtype))
    (other,) = (value for value in operands if not is_zero(value))
    return other if flat.shape(other) == result.shape else None


def unrepeated(flat: Flattening, equation: Any, operands: list[Any]) -> list[Any]:
    """The operands of a sum or a product before they were repeated for each example."""
    if equation.primitive.name not in ("add", "mul"):
        return operands
    once = [flat.repeated.get(v, v) if isinstance(v, int) else v for v in operands]
    full = equation.outvars[0].aval.shape
    return once if any(flat.shape(value) == full for value in once) else operands


def note_repeated(flat: Flattening, op: Any) -> None:
    """Note of an operation that was gathered whether it only repeats numbers for each example.

    A split, along another axis, of what was repeated is one of the numbers before, repeated.
    """
    others = [value for value in op.inputs if isinstance(value, int)]
    if len(others) != 1 or others[0] in flat.active:
        return
    (other,) = others
    if op.name == "add" and any(map(is_zero, op.inputs)):
        flat.repeated[op.outputs[0]] = other
    elif op.name == "split" and op.params["axis"] and other in flat.repeated:
        _split(flat, op, flat.repeated[other])


def _split(flat: Flattening, op: Any, once: int) -> None:
    if flat.shape(once) != (1, *flat.shape(op.inputs[0])[1:]):
        return
    types = [flat.types[output] for output in op.outputs]
    parts = tuple(flat.new(each.update(shape=(1, *each.shape[1:]))) for each in types)
    flat.ops.append(dataclasses.replace(op, inputs=(once,), outputs=parts))
    flat.repeated |= dict(zip(op.outputs, parts, strict=True))
