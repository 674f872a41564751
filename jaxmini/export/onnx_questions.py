"""ONNX questions: what a model asks of token numbers, as nodes of yes and no, and what masks add by it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import INPUT, Group, Move
from jaxmini.compress.quantize.program import Op
from jaxmini.compress.quantize.questions import SAME, Question
from jaxmini.export.onnx_layout import Order, Tensor, Writer, refusal
from jaxmini.export.onnx_moves import MOVES
from jaxmini.export.onnx_numbers import Arrange

# The node of each primitive; of "ne" it is turned by a Not.
NODES = {
    "and": "And",
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
    "ne": "Equal",
    "not": "Not",
    "or": "Or",
}


def question(writer: Writer, group: Question, operands: Sequence[Tensor]) -> list[Tensor]:
    """Yes or no, bool, of token numbers.

    Raises:
        ValueError: an operation has no form; names it, its module, and what to do.
    """
    asking = _Asking(writer.plan, writer.numbers, open_batch=writer.open_batch, graph=writer.graph)
    values = dict(zip(group.inputs, operands, strict=True))
    for op in group.ops:
        operands = [values.get(value) for value in op.inputs]
        values.update(zip(op.outputs, _asked(asking, op, operands), strict=True))
    return [values[output] for output in group.outputs]


def added(writer: Writer, group: Mask, asked: Tensor, order: Order) -> str:
    """What a mask adds to numbers whose axes are in that order: chosen of two, for no and for yes."""
    from onnx import TensorProto

    graph, name = writer.graph, asked.name
    if asked.order != order:
        name = graph.node("Transpose", name, perm=asked.axes(order))
    which = graph.node("Cast", name, to=TensorProto.INT32)
    table = writer.stored(group, 1, lambda values: values)
    chosen = graph.node("Gather", table, which, axis=0)
    return writer.numbers.chosen(graph, group, 1, chosen)


class _Asking(Writer):
    """Writes what is on no grid; its constants are literals."""

    def rounded(self, name: str, order: Order, site: str) -> Tensor:
        return Tensor(name, order, site)

    def stored(self, group: Group, position: int, arrange: Arrange) -> str:
        return self.graph.array("constant", arrange(np.asarray(group.inputs[position].value)))


def _asked(writer: Writer, op: Op, operands: Sequence[Tensor | None]) -> list[Tensor]:
    group = Move(op.name, INPUT, op.inputs, op.outputs, op)
    if op.name in NODES:
        names, order = writer.aligned(group, operands)
        name = writer.graph.node(NODES[op.name], *names)
        name = writer.graph.node("Not", name) if op.name == "ne" else name
        return [Tensor(name, order, group.site)]
    if op.name in SAME:
        return list(operands)
    if op.name == "concatenate":
        return MOVES[op.name](writer, group, list(operands))
    if op.name not in MOVES:
        raise refusal(op)
    places = tuple(np.asarray(value.value) for value in op.inputs[1:])
    alone = dataclasses.replace(group, inputs=op.inputs[:1], settings=places)
    return MOVES[op.name](writer, alone, list(operands[:1]))
