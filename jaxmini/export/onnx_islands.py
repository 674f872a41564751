"""ONNX islands: operations in float between two roundings, one function a primitive.

A function that ONNX has an operator for is one node; a normalisation, gelu and what a scheme declares are
written as the model computes them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxmini.compress.quantize.functions import Apply
from jaxmini.compress.quantize.moving import Select
from jaxmini.compress.quantize.plan import Group, Move
from jaxmini.compress.quantize.program import Literal, Op, Program, Value, opened
from jaxmini.compress.quantize.subgraph import Subgraph
from jaxmini.export.onnx_convolution import convolved, is_plain, outputs_first
from jaxmini.export.onnx_layout import Order, Tensor, Writer, refusal, without
from jaxmini.export.onnx_moves import MOVES, move
from jaxmini.export.onnx_numbers import Arrange
from jaxmini.export.onnx_products import product

# Of the .tflite operators that a plan's functions are known by, ONNX's own in opset 17; GELU came later.
OPERATORS = {
    "HARD_SWISH": "HardSwish",
    "LEAKY_RELU": "LeakyRelu",
    "LOGISTIC": "Sigmoid",
    "LOG_SOFTMAX": "LogSoftmax",
    "SOFTMAX": "Softmax",
    "TANH": "Tanh",
}
# Primitives of one number, and of two.
UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logistic": "Sigmoid",
    "neg": "Neg",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
BINARY = {
    "add": "Add",
    "add_any": "Add",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "pow": "Pow",
    "sub": "Sub",
}
# Moves whose operands after the first say where to, and are no numbers that move.
PLACED = frozenset({"dynamic_slice", "gather"})
INLAND = "leave it out of the island, or compute it outside the model"


def subgraph(writer: Writer, group: Subgraph, operands: Sequence[Tensor]) -> Tensor:
    """What a subgraph leaves, rounded once, at its end.

    Raises:
        ValueError: an operation of an island has no form; names it, its module, and what to do.
    """
    known = isinstance(group, Apply) and group.kind.operator in OPERATORS
    name, order, _ = (_function if known else _inland)(writer, group, *operands)
    return writer.rounded(name, order, group.site)


def _function(writer: Writer, group: Apply, source: Tensor) -> Tensor:
    """One node; softmax is along the last of JAX's axes, wherever that is."""
    attributes: dict[str, Any] = {}
    if group.kind.operator in ("SOFTMAX", "LOG_SOFTMAX"):
        attributes["axis"] = source.order.index(len(source.order) - 1)
    if group.kind.operator == "LEAKY_RELU":
        attributes["alpha"] = group.kind.function.keywords["negative_slope"]
    name = writer.graph.node(OPERATORS[group.kind.operator], source.name, **attributes)
    return source._replace(name=name)


def _inland(writer: Writer, group: Subgraph, *operands: Tensor) -> Tensor:
    """The operations of an island, one by one."""
    program = opened(writer.plan.program, group.ops)
    held = dict(zip(group.held, writer.numbers.held(group), strict=True))
    inner = _Inland(writer, program, held)
    values: dict[Value, Tensor] = dict(zip(group.reads, operands, strict=True))
    for op in program.ops:
        alone = _alone(op)
        results = _form(inner, alone, [values.get(value) for value in alone.inputs])
        values.update(zip(op.outputs, results, strict=True))
    return values[program.output]


class _Inland(Writer):
    """Writes a part that is not rounded; its constants are literals, and what it holds of the variables."""

    def __init__(self, outer: Writer, program: Program, held: Mapping[Value, np.ndarray]) -> None:
        super().__init__(outer.plan, outer.numbers, open_batch=outer.open_batch, graph=outer.graph)
        self._program, self._held = program, held

    def shape(self, value: Value) -> tuple[int, ...]:
        return self._program.shape(value)

    def rounded(self, name: str, order: Order, site: str) -> Tensor:
        return Tensor(name, order, site)

    def stored(self, group: Group, position: int, arrange: Arrange) -> str:
        value = group.inputs[position]
        array = value.value if isinstance(value, Literal) else self._held[value]
        return self.graph.array("constant", arrange(np.asarray(array, np.float32)))


def _form(writer: Writer, group: Move, operands: list[Tensor | None]) -> list[Tensor]:
    """What an operation leaves."""
    op = group.op
    if op.name in UNARY:
        (source,) = operands
        return [source._replace(name=writer.graph.node(UNARY[op.name], source.name))]
    if op.name in BINARY:
        names, order = writer.aligned(group, operands)
        return [Tensor(writer.graph.node(BINARY[op.name], *names), order, group.site)]
    if op.name in FORMS:
        return [FORMS[op.name](writer, group, operands)]
    if op.name not in MOVES and not isinstance(group, Select):
        raise refusal(op, remedy=INLAND)
    return move(writer, group, operands)


def _alone(op: Op) -> Move:
    """An operation as a group of its own, which is how forms are given what they write."""
    name, settings = f"{op.path}:{op.name}", [v for v in op.inputs if isinstance(v, Literal)]
    if op.name == "select_n" and isinstance(op.inputs[0], Literal):
        mask = op.inputs[0].value
        return Select(name, "", op.inputs[1:], op.outputs, op, mask=mask)
    if op.name not in PLACED:
        return Move(name, "", op.inputs, op.outputs, op)
    if len(settings) != len(op.inputs) - 1:
        raise refusal(op, "where it moves numbers is not known before the file runs", INLAND)
    places = tuple(np.asarray(value.value) for value in settings)
    return Move(name, "", op.inputs[:1], op.outputs, op, places)


def _convolution(writer: Writer, group: Move, operands: list[Tensor | None]) -> Tensor:
    source, kernel = operands
    if kernel is not None or not is_plain(group.op, len(source.order)):
        raise refusal(group.op, remedy=INLAND)
    window = writer.shape(group.inputs[1])[:-2]
    weights = [writer.stored(group, 1, outputs_first)]
    return convolved(writer, group.op, source, window, weights)


def _power(writer: Writer, group: Move, operands: list[Tensor]) -> Tensor:
    """A whole power, as products."""
    (source,) = operands
    times = group.op.params["y"] if group.op.name == "integer_pow" else 2
    if times == 0:
        raise refusal(group.op, "it is a power of 0", "write a 1")
    name = source.name
    for _ in range(abs(times) - 1):
        name = writer.graph.node("Mul", name, source.name)
    return source._replace(name=writer.graph.node("Reciprocal", name) if times < 0 else name)


def _beside_one(writer: Writer, group: Move, operands: list[Tensor]) -> Tensor:
    """1 - erf(x), exp(x) - 1, log(1 + x): exact to float32's step at 1, not for numbers far below it."""
    (source,), one = operands, writer.graph.array("one", np.float32(1))
    match group.op.name:
        case "erfc":
            name = writer.graph.node("Sub", one, writer.graph.node("Erf", source.name))
        case "expm1":
            name = writer.graph.node("Sub", writer.graph.node("Exp", source.name), one)
        case _:
            name = writer.graph.node("Log", writer.graph.node("Add", source.name, one))
    return source._replace(name=name)


def _rsqrt(writer: Writer, group: Move, operands: list[Tensor]) -> Tensor:
    (source,) = operands
    root = writer.graph.node("Sqrt", source.name)
    return source._replace(name=writer.graph.node("Reciprocal", root))


def _sum(writer: Writer, group: Move, operands: list[Tensor]) -> Tensor:
    (source,), axes = operands, group.op.params["axes"]
    writer.require_batch(group.op, 0 not in axes, "it adds up the batch")
    where = writer.graph.integers("axes", source.axes(axes))
    left = without(source.order, axes)
    return writer.moved("ReduceSum", source, where, order=left, keepdims=0)


FORMS: dict[str, Callable[[Writer, Move, list[Tensor | None]], Tensor]] = {
    "conv_general_dilated": _convolution,
    "dot_general": product,
    **dict.fromkeys(("erfc", "expm1", "log1p"), _beside_one),
    "integer_pow": _power,
    "reduce_sum": _sum,
    "rsqrt": _rsqrt,
    "square": _power,
}
