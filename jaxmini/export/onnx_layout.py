"""ONNX layout: in which order a file's tensors have the axes that JAX's have, and what changes it.

ONNX convolves channels first, JAX's models channels last. A tensor stays as the last operation left it, and
is transposed where one is read that asks for another order; so a chain of convolutions is transposed once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmini.compress.quantize.plan import Group, Plan
from jaxmini.compress.quantize.program import Op, Value
from jaxmini.export.onnx_graph import Graph
from jaxmini.export.onnx_numbers import Arrange, Numbers

Order = tuple[int, ...]

NO_FORM = "it has no form in an ONNX file"
OUTSIDE = "compute it outside the model, or replace it"


class Tensor(NamedTuple):
    """A tensor of the file.

    Attributes:
        name: in the graph.
        order: axis ``i`` of it is axis ``order[i]`` of the plan's value.
        site: whose grid its numbers lie on.
    """

    name: str
    order: Order
    site: str

    def axes(self, axes: Sequence[int]) -> list[int]:
        """Where the plan's axes are in this tensor."""
        return [self.order.index(axis) for axis in axes]

    def sorted(self, items: Sequence[Any]) -> list[Any]:
        """What is said of each axis of the plan's value, in the order of this tensor's."""
        return [items[axis] for axis in self.order]


def as_in_jax(rank: int) -> Order:
    """The order of JAX's own axes."""
    return tuple(range(rank))


def channels_first(rank: int) -> Order:
    """Batch, channels, pixels, of a value [batch, ..., channels]."""
    return (0, rank - 1, *range(1, rank - 1))


def without(order: Order, axes: Sequence[int]) -> Order:
    """The order that is left when a value loses some of its axes."""
    kept = [axis for axis in range(len(order)) if axis not in axes]
    return tuple(kept.index(axis) for axis in order if axis in kept)


def refusal(op: Op, reason: str = NO_FORM, remedy: str = OUTSIDE) -> ValueError:
    """The error that says why ``op`` has no place in the file."""
    where = f"the module {op.path}" if op.path else "the model"
    return ValueError(f"onnx: {reason} ({op.name!r} in {where}): {remedy}")


class Writer:
    """Writes nodes that move numbers from one order, or shape, to another.

    Attributes:
        plan: whose values are written.
        numbers: how they are written.
        graph: where to.
        open_batch: leave the first axis of everything to whoever runs the file; the plan's own batch is
            then an example.
    """

    def __init__(
        self, plan: Plan, numbers: Numbers, *, open_batch: bool, graph: Graph | None = None
    ) -> None:
        self.plan, self.numbers, self.open_batch = plan, numbers, open_batch
        self.graph = Graph() if graph is None else graph
        self._transposed: dict[tuple[str, Order], str] = {}

    def shape(self, value: Value) -> tuple[int, ...]:
        """Shape of a value in the plan."""
        return self.plan.program.shape(value)

    def rounded(self, name: str, order: Order, site: str) -> Tensor:
        """What a node gave, put on the grid of a site."""
        return Tensor(self.numbers.activation(self.graph, site, name), order, site)

    def moved(
        self, op: str, tensor: Tensor, *inputs: str, order: Order | None = None, **attributes: Any
    ) -> Tensor:
        """A node that moves one tensor's numbers, which stay on their grid."""
        name = self.graph.node(op, tensor.name, *inputs, **attributes)
        return self.rounded(name, tensor.order if order is None else order, tensor.site)

    def arranged(self, tensor: Tensor, order: Order) -> Tensor:
        """The tensor with its axes in that order; transposed once, whoever asks for it."""
        if tensor.order == order:
            return tensor
        key = tensor.name, tuple(tensor.axes(order))
        if key not in self._transposed:
            moved = self.moved("Transpose", tensor, order=order, perm=key[1])
            self._transposed[key] = moved.name
        return Tensor(self._transposed[key], order, tensor.site)

    def in_jax_order(self, tensor: Tensor) -> Tensor:
        return self.arranged(tensor, as_in_jax(len(tensor.order)))

    def aligned(
        self, group: Group, operands: Sequence[Tensor | None]
    ) -> tuple[tuple[str, ...], Order]:
        """Names of a group's operands, its constants too, with the axes of all in one order; that order."""
        order = next(operand.order for operand in operands if operand is not None)
        names = (
            self.constant(group, position, order)
            if operand is None
            else self.arranged(operand, order).name
            for position, operand in enumerate(operands)
        )
        return tuple(names), order

    def reshaped(
        self, op: Op, tensor: Tensor, before: Sequence[int], after: Sequence[int]
    ) -> Tensor:
        """The tensor, of the shape ``before`` in the plan, with the shape ``after``, for ``op``."""
        before, after = tuple(before), tuple(after)
        if before == after:
            return tensor
        self.require_batch(op, before[:1] == after[:1], "it mixes the batch with other axes")
        sizes = [0, *after[1:]] if self.open_batch else after  # 0 keeps a size as it is
        shape = self.graph.integers("shape", sizes)
        source = self.in_jax_order(tensor)
        return self.moved("Reshape", source, shape, order=as_in_jax(len(after)))

    def require_batch(self, op: Op, kept: bool, reason: str) -> None:
        """See that an operation leaves the first axis alone where that is open."""
        if self.open_batch and not kept:
            raise refusal(op, reason, "export it with a fixed batch, onnx(..., batch=1)")

    def constant(self, group: Group, position: int, order: Order) -> str:
        """A constant operand in an order; one row of it where the batch is open."""
        whole = self.shape(group.inputs[position])

        def arrange(values: np.ndarray) -> np.ndarray:
            if not order or values.ndim != len(order):
                return values
            values = np.broadcast_to(values, whole)  # what is repeated is frozen once
            return self.turned(group.op, values, order)

        return self.stored(group, position, arrange)

    def turned(self, op: Op, values: np.ndarray, order: Order) -> np.ndarray:
        """What is known before the file runs in an order; one row of it where the batch is open."""
        if not values.ndim:
            return values
        if self.open_batch:
            same = bool((values == values[:1]).all())
            self.require_batch(op, same, "its constant differs along the batch")
            values = values[:1]
        return np.ascontiguousarray(values.transpose(order))

    def stored(self, group: Group, position: int, arrange: Arrange) -> str:
        """The operand of a group at a position, a constant, as ``arrange`` puts it."""
        return self.numbers.constant(self.graph, group, position, arrange)
