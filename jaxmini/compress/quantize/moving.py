"""Moving: choices among numbers that stay what they are, by places and masks known before the file runs."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.plan import Move
from jaxmini.compress.quantize.program import Literal, Op, Value
from jaxmini.compress.quantize.refusal import refuse
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Select(Move):
    """``jnp.where`` by a mask that is known: each number is that of one of the operands."""

    mask: np.ndarray = dataclasses.field(kw_only=True)

    def move(self, *operands: Array) -> list[Array]:
        """Run the choice; constants are spread over what they stand beside."""
        shape = next(array.shape for array in operands if array.ndim == self.mask.ndim)
        shape = np.broadcast_shapes(shape, self.mask.shape)
        return self.op.bind(self.mask, *(jnp.broadcast_to(array, shape) for array in operands))


def taken(grouping: Grouping, op: Op) -> None:
    """Rows of an activation at places that are known: a permutation, or a nearest-neighbour resize."""
    source, places = grouping.inputs(op)
    if not isinstance(places, Literal):
        refuse(op, "it reads at places that are computed", "read at places that are known")
    _check_places(grouping, op, places.value)
    name, site = grouping.name(op), grouping.site_of[source]
    grouping.add(Move(name, site, (source,), op.outputs, op, (places.value,)))


def selected(grouping: Grouping, op: Op) -> None:
    """The two sides of a choice, and its result, share one grid; constants lie on it too."""
    mask, *cases = grouping.inputs(op)
    if not isinstance(mask, Literal):
        refuse(
            op,
            "it chooses by numbers that are computed",
            "choose by a mask that is known; use relu or relu6 for leaky_relu",
        )
    cases = tuple(map(_spread, cases))
    site = joined_site(grouping, cases)
    name = grouping.name(op, "where")
    grouping.add(Select(name, site, cases, op.outputs, op, mask=mask.value))


def joined(grouping: Grouping, op: Op, label: str | None = None) -> None:
    """All that is joined, and the result, share one grid."""
    inputs = grouping.inputs(op)
    site = joined_site(grouping, inputs)
    grouping.add(Move(grouping.name(op, label), site, inputs, op.outputs, op))


def joined_site(grouping: Grouping, inputs: tuple[Value, ...]) -> str:
    """The site that the activations among some values are tied to."""
    first, *others = (grouping.site_of[value] for value in inputs if grouping.is_activation(value))
    for site in others:
        grouping.tie(first, site)
    return first


def padded(grouping: Grouping, op: Op) -> None:
    """A border of a constant, which lies on the grid of what it surrounds."""
    inputs = grouping.inputs(op)
    if grouping.is_activation(inputs[1]):
        refuse(op, "it pads with a number that is computed", "pad with a constant")
    site = grouping.site_of[inputs[0]]
    grouping.add(Move(grouping.name(op), site, inputs, op.outputs, op))


def _spread(case: Value) -> Value:
    """A constant without its repetitions along the batch, which a file does not have."""
    if not isinstance(case, Literal) or not case.value.ndim:
        return case
    first = case.value[:1]
    return (
        Literal(first) if np.array_equal(case.value, np.broadcast_to(first, case.shape)) else case
    )


def _check_places(grouping: Grouping, op: Op, places: np.ndarray) -> None:
    """Refuse places beyond the ends, for which JAX gives NaN and a file does not."""
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    shape = np.array(grouping.program.shape(op.inputs[0]))
    if 0 in numbers.start_index_map:
        refuse(op, "it reads across the batch", "read along the other axes")
    axes = list(numbers.start_index_map)
    beyond = places > shape[axes] - np.array(sizes)[axes]
    if np.any(beyond | (places < 0)):
        refuse(op, "it reads beyond the ends of an axis", "read at places inside")
