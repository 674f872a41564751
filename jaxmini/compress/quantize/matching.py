"""Matching: finds a known function among a program's operations, by tracing the function itself.

A function such as softmax is many operations in a traced program. What it looks like is what JAX traces of
it, in the version at hand; there is no list of patterns to keep.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.program import Literal, Op, Program, Value, trace
from jaxmini.compress.quantize.subgraph import seen_outside
from jaxmini.model import Model
from jaxmini.state import Array, PyTree

Function = Callable[[Array], Array]


def matched(
    grouping: Grouping, source: int, function: Function, dtype: jax.typing.DTypeLike = jnp.float32
) -> tuple[Op, ...] | None:
    """The operations that compute ``function`` of ``source``, None where they are not all there.

    Nothing but the function's result may be read elsewhere.

    Args:
        source: a value as operations name it.
        function: of one array; hashable, so that it is traced once a shape.
        dtype: that the model computes the function in; its constants are rounded to it.
    """
    wanted = _traced(function, grouping.program.shape(source), np.dtype(dtype))
    names: dict[int, int] = {wanted.input: source}
    found: list[Op] = []
    for model in wanted.ops:
        op = _found(grouping, model, names)
        if op is None:
            return None
        found.append(op)
        names.update(zip(model.outputs, op.outputs, strict=True))
    left = seen_outside(grouping, found)
    return tuple(found) if left == found[-1].outputs else None


@functools.lru_cache(maxsize=256)
def _traced(function: Function, shape: tuple[int, ...], dtype: np.dtype) -> Program:
    def apply(_: PyTree, inputs: Array, **__: object) -> tuple[Array, PyTree]:
        return function(inputs.astype(dtype)), {}

    model = Model(init=lambda *_: {}, apply=apply)
    return trace(model, {}, jax.ShapeDtypeStruct(shape, jnp.float32))


def _found(grouping: Grouping, wanted: Op, names: Mapping[int, int]) -> Op | None:
    """The operation that does what ``wanted`` does, on the values that ``names`` gives for its operands."""
    operands = [v if isinstance(v, Literal) else names[v] for v in wanted.inputs]
    read = next(value for value in operands if isinstance(value, int))
    for op in grouping.consumers.get(read, []):
        free = op.outputs[0] not in grouping.taken
        if free and _same_operation(op, wanted) and _same_operands(op.inputs, operands):
            return op
    return None


def _same_operation(op: Op, wanted: Op) -> bool:
    if op.name != wanted.name or op.primitive is not wanted.primitive:
        return False
    # A call that is kept whole is known by its name; its parameters are programs.
    return op.name != op.primitive.name or op.params == wanted.params


def _same_operands(operands: tuple[Value, ...], wanted: list[Value]) -> bool:
    return len(operands) == len(wanted) and all(map(_same, operands, wanted))


def _same(value: Value, wanted: Value) -> bool:
    if isinstance(value, Literal) and isinstance(wanted, Literal):
        return np.array_equal(value.value, wanted.value)
    return value == wanted
