"""Plans of plain functions, by tracing alone: nothing is initialised, nothing is compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.program import Op, Program, trace
from jaxmini.compress.quantize.transform import make_plan
from jaxmini.model import Model

SHAPE = (2, 4)


def model_of(function: Callable) -> Model:
    """A model of ``function(params, inputs)``."""
    return Model(
        init=lambda key, inputs: {},
        apply=lambda variables, inputs, **_: (function(variables["params"], inputs), {}),
    )


def alone(function: Callable) -> Callable:
    """The function of inputs alone, as one of parameters too."""
    return lambda params, inputs: function(inputs)


def types(params: Any) -> dict[str, Any]:
    """Variables whose parameters are of these shapes, or are these arrays."""

    def made(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf, jnp.float32) if isinstance(leaf, tuple) else leaf

    return {"params": {name: made(leaf) for name, leaf in params.items()}}


def program_of(function: Callable, shape: tuple[int, ...] = SHAPE, **params: Any) -> Program:
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    return trace(model_of(function), types(params), inputs)


def grouping_of(function: Callable, shape: tuple[int, ...] = SHAPE, **params: Any) -> Grouping:
    return Grouping(program_of(function, shape, **params))


def planned(function: Callable, shape: tuple[int, ...] = SHAPE, **params: Any) -> Plan:
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    return make_plan(model_of(function), types(params), inputs)


def op_of(program: Program, name: str, which: int = 0) -> Op:
    return [op for op in program.ops if op.name == name][which]
