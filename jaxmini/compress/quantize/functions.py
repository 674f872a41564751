"""Functions: the functions of one tensor that an integer file has one operator for.

Each is known by what it computes (``matching``), rounded once, at its end, and has the arithmetic of its
kernel in integers (``tables``).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize import tables
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.matching import Function, matched
from jaxmini.compress.quantize.patterns import scalar
from jaxmini.compress.quantize.program import Op
from jaxmini.compress.quantize.subgraph import Subgraph
from jaxmini.compress.quantize.widening import HALF
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True)
class Kind:
    """A function and its operator.

    Attributes:
        label: how groups are named after it.
        operator: of the file.
        function: what operations are compared with.
        integers: (centred inputs, their grid, the grid of the outputs) -> centred outputs.
        grid: the one grid of its outputs that kernels know, None if it is free.
        written: the same function as converters know it, None where JAX's own is.
    """

    label: str
    operator: str
    function: Function
    integers: Callable[[Array, Grid, Grid], Array]
    grid: Grid | None = None
    written: Function | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Apply(Subgraph):
    """A function of one tensor."""

    kind: Kind

    def __call__(self, operands: Sequence[Array], held: Sequence[Array] = ()) -> Array:
        """The function, in float."""
        written = self.kind.written
        return super().__call__(operands, held) if written is None else written(*operands)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), -1, keepdims=True))


UNIT = Grid(1 / 256, -128)

SOFTMAX = Kind("softmax", "SOFTMAX", jax.nn.softmax, tables.softmax, UNIT)
LOG_SOFTMAX = Kind(
    "log_softmax",
    "LOG_SOFTMAX",
    jax.nn.log_softmax,
    tables.log_softmax,
    Grid(16 / 256, 127),
    _log_softmax,
)
SIGMOID = Kind("sigmoid", "LOGISTIC", jax.nn.sigmoid, tables.sigmoid, UNIT)
TANH = Kind("tanh", "TANH", jax.numpy.tanh, tables.tanh, Grid(1 / 128, 0))
GELU = Kind("gelu", "GELU", functools.partial(jax.nn.gelu, approximate=True), tables.gelu)
# Of no model by itself: ``norms`` asks for it.
RSQRT = Kind("rsqrt", "RSQRT", lax.rsqrt, tables.rsqrt)
HARD_SWISH = Kind("hard_swish", "HARD_SWISH", jax.nn.hard_swish, tables.hard_swish)


@functools.cache
def leaky_relu(slope: float) -> Kind:
    """x where it is positive, else ``slope * x``."""
    function = functools.partial(jax.nn.leaky_relu, negative_slope=slope)
    return Kind("leaky_relu", "LEAKY_RELU", function, functools.partial(tables.leaky_relu, slope))


OPERATORS = frozenset(
    kind.operator
    for kind in (SOFTMAX, LOG_SOFTMAX, SIGMOID, TANH, GELU, HARD_SWISH, RSQRT, leaky_relu(0.01))
)

# The functions that may begin with an operation.
BEGINNING: dict[str, tuple[Kind, ...]] = {
    "add": (HARD_SWISH,),
    "integer_pow": (GELU,),
    "logistic": (SIGMOID,),
    "reduce_max": (SOFTMAX, LOG_SOFTMAX),
    "tanh": (TANH,),
}


def apply_function(grouping: Grouping, op: Op) -> bool:
    """Group the function that begins with ``op``; whether there is one."""
    sources = [value for value in op.inputs if grouping.is_activation(value)]
    if not sources or grouping.program.types[sources[0]].dtype != np.float32:
        return False
    for kind in _candidates(grouping, op, sources[0]):
        for dtype in (np.float32, *HALF):
            ops = matched(grouping, sources[0], kind.function, dtype)
            if ops is not None and op in ops:
                exact = kind if dtype == np.float32 else _exact(kind)
                _place(grouping, exact, sources[0], ops)
                return True
    return False


def _exact(kind: Kind) -> Kind:
    """The function itself, for one whose constants a model in half precision has rounded."""
    return dataclasses.replace(kind, written=kind.written or kind.function)


def _candidates(grouping: Grouping, op: Op, source: int) -> tuple[Kind, ...]:
    if op.name == "ge":  # the slope is a number of the program
        products = [reader for reader in grouping.consumers[source] if reader.name == "mul"]
        slopes = [scalar(value) for reader in products for value in reader.inputs]
        return tuple(leaky_relu(slope) for slope in slopes if slope is not None)
    if op.name == "add" and 3.0 not in map(scalar, op.inputs):  # most additions are not x + 3
        return ()
    return BEGINNING.get(op.name, ())


def _place(grouping: Grouping, kind: Kind, source: int, ops: tuple[Op, ...]) -> None:
    for op in ops:
        grouping.take(op)
    name, last = grouping.name(ops[0], kind.label), ops[-1]
    inputs = (grouping.resolved(source),)
    group = Apply(name, name, inputs, last.outputs, last, ops, (source,), kind=kind)
    site = grouping.add(group).site
    if kind.grid is not None:
        grouping.fixed[site] = kind.grid
