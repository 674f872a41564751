"""What a model costs: parameters and multiply-accumulates, read off the program that JAX traces.

Shapes are enough: nothing is computed or allocated, not even for a model of a billion parameters.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params
from jax.typing import DTypeLike

from jaxmini.model import Model, Variables, as_model
from jaxmini.state import PyTree


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters, running statistics of BatchNorm, and multiply-accumulates for one example."""

    params: int
    batch_stats: int
    macs: int


def cost(
    model: Model | nn.Module, input_shape: tuple[int, ...], *, dtype: DTypeLike = jnp.float32
) -> Cost:
    """What the model costs in inference, for one example.

    Args:
        model: a Model, or any linen module.
        input_shape: of one example, without the batch axis, e.g. (224, 224, 3).
        dtype: of the inputs.

    Raises:
        ValueError: the program holds a loop whose length is not known before it runs.
    """
    model = as_model(model)
    inputs = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    macs = count_macs(model, variables, input_shape, dtype=dtype)
    return Cost(count_params(variables), count_batch_stats(variables), macs)


def count_params(variables: Variables) -> int:
    """How many numbers the collection ``params`` holds."""
    return _size(variables["params"])


def count_batch_stats(variables: Variables) -> int:
    """How many running statistics BatchNorm holds, two a channel; 0 without BatchNorm."""
    return _size(variables.get("batch_stats", {}))


def count_macs(
    model: Model | nn.Module,
    variables: Variables,
    input_shape: tuple[int, ...],
    *,
    dtype: DTypeLike = jnp.float32,
) -> int:
    """Multiply-accumulates of convolutions and matrix products, attention's too, for one example.

    Norms, activations, pooling and element-wise products are not counted, as is usual.

    Args:
        model: a Model, or any linen module.
        variables: its variables, as arrays or as shapes (``jax.eval_shape`` of ``model.init``).
        input_shape: of one example, without the batch axis.
        dtype: of the inputs.

    Raises:
        ValueError: the program holds a loop whose length is not known before it runs.
    """
    inputs = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    infer = functools.partial(as_model(model).apply, train=False)
    return _macs(jax.make_jaxpr(infer)(variables, inputs))


def _size(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _macs(program: Jaxpr | ClosedJaxpr) -> int:
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    return sum(_equation_macs(eqn) for eqn in jaxpr.eqns)


def _equation_macs(eqn: JaxprEqn) -> int:
    inner = [_macs(program) for program in jaxprs_in_params(eqn.params)]
    match eqn.primitive.name:
        case "conv_general_dilated":
            kernel, out_axis = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec[0]
            return _outputs(eqn) * math.prod(_without(kernel, out_axis))
        case "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            return _outputs(eqn) * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        case "scan":
            return eqn.params["length"] * sum(inner)
        case "cond":
            return max(inner)  # One branch runs; the dearest is a bound.
        case "while" if sum(inner):
            raise ValueError(
                f"count_macs: the loop at {eqn.source_info.name_stack} runs until a condition "
                "holds, so its products cannot be counted; use lax.scan, or lax.fori_loop with "
                "constant bounds"
            )
    return sum(inner)


def _outputs(eqn: JaxprEqn) -> int:
    return math.prod(eqn.outvars[0].aval.shape)


def _without(shape: Iterable[int], axis: int) -> list[int]:
    return [size for i, size in enumerate(shape) if i != axis]
