"""ONNX operations: a plan as a graph, one function a kind of group; each is rounded once, at its end."""

from collections.abc import Callable

import numpy as np

from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import (
    INPUT,
    AveragePool,
    Clamp,
    Elementwise,
    Group,
    Mean,
    Move,
    Plan,
    Rectifier,
    Weighted,
)
from jaxmini.compress.quantize.products import Product
from jaxmini.compress.quantize.program import Value
from jaxmini.compress.quantize.questions import Question
from jaxmini.compress.quantize.subgraph import Subgraph
from jaxmini.export.onnx_convolution import convolved, outputs_first
from jaxmini.export.onnx_islands import subgraph
from jaxmini.export.onnx_layout import (
    Tensor,
    Writer,
    as_in_jax,
    channels_first,
    refusal,
    without,
)
from jaxmini.export.onnx_moves import move, padded, pooled
from jaxmini.export.onnx_numbers import Numbers
from jaxmini.export.onnx_products import product
from jaxmini.export.onnx_questions import added, question

ELEMENTWISE = {"add": "Add", "mul": "Mul", "sub": "Sub"}


def translate(
    plan: Plan, numbers: Numbers, image: str, *, open_batch: bool
) -> tuple[Writer, dict[Value, Tensor]]:
    """The graph of a plan, and the tensor in it that each value between the plan's groups is.

    Args:
        plan: of a batch of any size above 1 where ``open_batch``.
        numbers: floats or integers.
        image: name of the input: uint8 pixels, or int32 numbers of tokens.
        open_batch: leave the batch to whoever runs the graph.

    Raises:
        ValueError: an operation has no form in a file; names it, its module, and what to do.
    """
    writer = Writer(plan, numbers, open_batch=open_batch)
    source = plan.program.input
    name = image if plan.reads_tokens else numbers.pixels(writer.graph, image)
    values: dict[Value, Tensor] = {
        source: Tensor(name, as_in_jax(len(writer.shape(source))), INPUT)
    }
    for group in plan.groups:
        writer.graph.scope = group.name
        operands = [values.get(value) for value in group.inputs]
        values.update(zip(group.outputs, _form(writer, group, operands), strict=True))
    return writer, values


def _form(writer: Writer, group: Group, operands: list[Tensor | None]) -> list[Tensor]:
    match group:
        case Move():
            form = question if isinstance(group, Question) else move
            return form(writer, group, operands)
        case AveragePool():
            return [_average_pool(writer, group, *operands)]
        case Rectifier():
            return [_finished(writer, group, operands[0].name, operands[0].order)]
        case Weighted():
            return [_product(group)(writer, group, *operands)]
        case Mean():
            return [_mean(writer, group, *operands)]
        case Elementwise():
            return [_elementwise(writer, group, operands)]
        case Product():
            return [product(writer, group, operands)]
        case Mask():
            return [_mask(writer, group, *operands)]
        case Subgraph():
            return [subgraph(writer, group, operands)]
    raise refusal(group.op)


def _finished(writer: Writer, group: Group, name: str, order: tuple[int, ...]) -> Tensor:
    """The group's rectifier, then its one rounding."""
    clamp: Clamp | None = getattr(group, "clamp", None)
    if clamp is not None and np.isinf(clamp.high):
        name = writer.graph.node("Relu", name)
    elif clamp is not None:
        ends = (np.float32(0), np.float32(clamp.high))
        name = writer.graph.node("Clip", name, *(writer.graph.array("end", end) for end in ends))
    return writer.rounded(name, order, group.site)


def _product(group: Weighted) -> Callable[[Writer, Weighted, Tensor], Tensor]:
    if group.kernel is None:
        return _scaling
    return _convolution if group.op.name == "conv_general_dilated" else _dense


def _convolution(writer: Writer, group: Weighted, source: Tensor) -> Tensor:
    weights = writer.numbers.weight(writer.graph, group, outputs_first, 0)
    window = writer.shape(group.kernel)[:-2]
    name, order, _ = convolved(writer, group.op, source, window, weights)
    return _finished(writer, group, name, order)


def _scaling(writer: Writer, group: Weighted, source: Tensor) -> Tensor:
    """A number a channel is a depthwise convolution with windows of one pixel."""
    rank, channels = len(source.order), group.channels[-1]
    added = list(range(rank, 4))  # as pixels: a picture has two axes of them
    source = writer.arranged(source, channels_first(rank))
    if added:
        where = writer.graph.integers("axes", added)
        source = writer.moved("Unsqueeze", source, where, order=channels_first(4))
    kernel, bias = writer.numbers.weight(
        writer.graph, group, lambda k: k.reshape(channels, 1, 1, 1), 0
    )
    name = writer.graph.node("Conv", source.name, kernel, bias, kernel_shape=(1, 1), group=channels)
    scaled = _finished(writer, group, name, source.order)
    if not added:
        return scaled
    where = writer.graph.integers("axes", added)
    return writer.moved("Squeeze", scaled, where, order=channels_first(rank))


def _dense(writer: Writer, group: Weighted, source: Tensor) -> Tensor:
    shape = writer.shape(group.inputs[0])
    contracted = len(group.op.params["dimension_numbers"][0][0])
    rows = shape[: len(shape) - contracted]
    flat = (*rows, int(np.prod(shape[len(rows) :])))
    source = writer.in_jax_order(writer.reshaped(group.op, source, shape, flat))
    kernel, bias = writer.numbers.weight(writer.graph, group, lambda k: k, 1)
    if len(flat) == 2:
        name = writer.graph.node("Gemm", source.name, kernel, bias)
    else:
        name = writer.graph.node("MatMul", source.name, kernel)
        name = writer.graph.node("Add", name, bias)
    product = _finished(writer, group, name, as_in_jax(len(flat)))
    flat = (*rows, int(np.prod(group.channels)))
    return writer.reshaped(group.op, product, flat, (*rows, *group.channels))


def _mean(writer: Writer, group: Mean, source: Tensor) -> Tensor:
    """The mean over all pixels is the pool that runtimes have an integer kernel for."""
    before, order = writer.shape(group.inputs[0]), source.order
    kept = tuple(1 if axis in group.axes else size for axis, size in enumerate(before))
    if order == channels_first(4) and sorted(group.axes) == [1, 2]:
        name = writer.graph.node("GlobalAveragePool", source.name)
    else:
        axes = source.axes(group.axes)
        name = writer.graph.node("ReduceMean", source.name, axes=axes, keepdims=1)
    mean = writer.rounded(name, order, group.site)
    if group.shape == kept:
        return mean
    left = tuple(size for axis, size in enumerate(before) if axis not in group.axes)
    where = writer.graph.integers("axes", source.axes(group.axes))
    mean = writer.moved("Squeeze", mean, where, order=without(order, group.axes))
    return writer.reshaped(group.op, mean, left, group.shape)


def _average_pool(writer: Writer, group: AveragePool, source: Tensor) -> Tensor:
    """The zeros of the padding are counted, so they are put there before.

    The average of an even count may be a tie, which QuantizeLinear rounds to even and .tflite kernels round
    away from zero: there the files differ by one step.
    """
    sides = group.op.params["padding"]
    average = pooled(writer, "AveragePool", group.op, padded(writer, source, sides))
    return average if group.clamp is None else _finished(writer, group, average.name, average.order)


def _elementwise(writer: Writer, group: Elementwise, operands: list[Tensor | None]) -> Tensor:
    names, order = writer.aligned(group, operands)
    if group.op.name not in ELEMENTWISE:
        raise refusal(group.op)
    name = writer.graph.node(ELEMENTWISE[group.op.name], *names)
    return _finished(writer, group, name, order)


def _mask(writer: Writer, group: Mask, source: Tensor, asked: Tensor | None = None) -> Tensor:
    """What is added is 0 where a number stays, and takes it below the grid where it goes."""
    order = source.order
    if asked is None:
        name = writer.stored(group, 1, lambda v: np.ascontiguousarray(v.transpose(order)))
    else:
        name = added(writer, group, asked, order)
    return writer.rounded(writer.graph.node("Add", source.name, name), order, group.site)
