"""Patterns: what a single operation means to the group it may join."""

import math

import numpy as np

from jaxmini.compress.quantize.fold import Affine, is_per_channel
from jaxmini.compress.quantize.plan import Clamp
from jaxmini.compress.quantize.program import Literal, Op, Program, Value

# Numbers below are minus infinity in all but name: -10000 (BERT's), -1e9, the least float32.
HIDDEN = -9e3
AFFINE = frozenset({"add", "sub", "mul", "div", "neg"})


def scalar(value: Value) -> float | None:
    """The number that a literal holds, None for anything else."""
    if isinstance(value, Literal) and value.value.size == 1:
        return float(value.value.reshape(()))
    return None


def hides(value: Value) -> bool:
    """Whether a literal holds minus infinity in all but name (-1e4, -1e9, the least float32): a mask's."""
    return isinstance(value, Literal) and bool((np.asarray(value.value) < HIDDEN).any())


def rectified(op: Op, before: Clamp | None) -> Clamp | None:
    """What ``op`` makes of a clamp (or of no clamp), None if it is no rectifier of a file.

    ``jax.nn.relu``, ``relu6``, ``jnp.maximum(x, 0)`` and ``jnp.clip(x, 0, 6)`` are one.
    """
    high = math.inf if before is None else before.high
    literals = [number for number in map(scalar, op.inputs) if number is not None]
    if op.name == "relu" or (op.name == "max" and literals == [0]):
        return Clamp(high)
    if op.name == "relu6" or (op.name == "min" and literals == [6] and before is not None):
        return Clamp(min(high, 6.0))
    return None


def bound(op: Op) -> float | None:
    """The number that a maximum or minimum holds others to, None if ``op`` is neither of one number."""
    if op.name not in ("max", "min"):
        return None
    return next((number for number in map(scalar, op.inputs) if number is not None), None)


def divides(op: Op | None, count: int) -> bool:
    """Whether ``op`` divides by ``count``, a literal, or multiplies with what one over it is."""
    if op is None or op.name not in ("div", "mul"):
        return False
    first, second = map(scalar, op.inputs)
    number = first if op.name == "mul" and second is None else second
    if number is None:
        return False
    return bool(np.isclose(number, count if op.name == "div" else 1 / count, rtol=1e-6))


def affine(
    op: Op, source: int, inputs: tuple[Value, ...], channels: tuple[int, ...], program: Program
) -> Affine | None:
    """The per-channel step that ``op`` takes on ``source``, None if it takes none.

    Args:
        inputs: the operands of ``op``.
        channels: shape of the channels of ``source``.
    """
    if op.name not in AFFINE:
        return None
    if op.name == "neg":
        return Affine("neg")
    left = inputs[1] == source
    operand = inputs[0] if left else inputs[1]
    if operand == source or not is_per_channel(program.shape(operand), channels):
        return None
    if hides(operand):
        return None
    return None if left and op.name == "div" else Affine(op.name, operand, left)
