"""ONNX moves: what reshapes, pools, pads and the like are in a file; one function a primitive."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxmini.compress.quantize.lookup import Lookup
from jaxmini.compress.quantize.moving import Select
from jaxmini.compress.quantize.plan import Move
from jaxmini.compress.quantize.program import Op
from jaxmini.export.onnx_layout import (
    Tensor,
    Writer,
    channels_first,
    refusal,
    without,
)
from jaxmini.export.onnx_places import looked_up, selected, taken

# A slice that ends here goes on to the first element when it runs backwards.
BEYOND_FIRST = np.iinfo(np.int64).min

Form = Callable[[Writer, Move, list[Tensor]], list[Tensor]]


def move(writer: Writer, group: Move, operands: list[Tensor | None]) -> list[Tensor]:
    """What a group that moves numbers gives, a tensor an output; constant operands are None.

    Raises:
        ValueError: its operation has no form; names it, its module, and what to do.
    """
    match group:
        case Lookup():
            return [looked_up(writer, group, operands[1])]
        case Select():
            return [selected(writer, group, operands)]
    if group.op.name not in MOVES:
        raise refusal(group.op)
    return MOVES[group.op.name](writer, group, operands)


def pooled(writer: Writer, kind: str, op: Op, source: Tensor) -> Tensor:
    """A ``MaxPool`` or ``AveragePool`` over windows of pixels, without padding of its own."""
    params, rank = op.params, len(source.order)
    ends = [
        params[name][axis] for name in ("window_dimensions", "window_strides") for axis in (0, -1)
    ]
    if rank < 3 or any(size != 1 for size in ends):
        raise refusal(op, "its windows reach over the batch or the channels", "pool over pixels")
    if any(step != 1 for step in params["base_dilation"]):
        raise refusal(op, "its input is dilated", "pool without base_dilation")
    source = writer.arranged(source, channels_first(rank))
    pixels = slice(1, -1)
    attributes = {
        "kernel_shape": params["window_dimensions"][pixels],
        "strides": params["window_strides"][pixels],
    }
    if kind == "MaxPool":
        attributes["dilations"] = params["window_dilation"][pixels]
        attributes["pads"] = _sides(params["padding"][pixels])
    return writer.moved(kind, source, **attributes)


def padded(
    writer: Writer, source: Tensor, sides: Sequence[tuple[int, int]], *border: str
) -> Tensor:
    """A border before and after each axis of the plan's value, of zeros; less than none cuts it."""
    if not any(map(any, sides)):
        return source
    pads = writer.graph.integers("pads", _sides(source.sorted(sides)))
    return writer.moved("Pad", source, pads, *border)


def _sides(sides: Sequence[tuple[int, int]]) -> list[int]:
    """[(before, after) an axis] as ONNX has them: all before, then all after."""
    return [side[end] for end in range(2) for side in sides]


def _max_pool(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    return [pooled(writer, "MaxPool", group.op, operands[0])]


def _pad(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    config = group.op.params["padding_config"]
    if any(inner for _, _, inner in config):
        raise refusal(group.op, "it pads between elements", "repeat pixels, or pad at the sides")
    writer.require_batch(group.op, config[0][:2] == (0, 0), "it pads the batch")
    sides = [(low, high) for low, high, _ in config]
    # A border of other than zeros is a constant operand, on the grid of what it surrounds.
    border = [writer.constant(group, position, ()) for position in range(1, len(operands))]
    return [padded(writer, operands[0], sides, *border)]


def _reshape(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    before, after = writer.shape(group.inputs[0]), writer.shape(group.outputs[0])
    return [writer.reshaped(group.op, operands[0], before, after)]


def _squeeze(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    (source,), axes = operands, group.op.params["dimensions"]
    writer.require_batch(group.op, 0 not in axes, "it drops the batch")
    where = writer.graph.integers("axes", source.axes(axes))
    return [writer.moved("Squeeze", source, where, order=without(source.order, axes))]


def _transpose(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    """Only how the axes are counted changes; whoever reads them in an order transposes."""
    permutation = group.op.params["permutation"]
    writer.require_batch(group.op, permutation[0] == 0, "it moves the batch")
    order = tuple(permutation.index(axis) for axis in operands[0].order)
    return [operands[0]._replace(order=order)]


def _broadcast(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    before, after = writer.shape(group.inputs[0]), writer.shape(group.outputs[0])
    places = group.op.params["broadcast_dimensions"]
    spread = [1] * len(after)
    for axis, place in enumerate(places):
        spread[place] = before[axis]
    writer.require_batch(group.op, places[:1] == (0,), "it moves the batch")
    source = writer.reshaped(group.op, operands[0], before, spread)
    if spread == list(after):
        return [source]
    shape = [1, *after[1:]] if writer.open_batch else after  # 1 leaves a size as it is
    sizes = writer.graph.integers("shape", source.sorted(shape))
    return [writer.moved("Expand", source, sizes)]


def _slice(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    params, shape = group.op.params, writer.shape(group.inputs[0])
    steps = params["strides"] or (1,) * len(shape)
    spans = list(zip(params["start_indices"], params["limit_indices"], steps, strict=True))
    axes = [axis for axis, span in enumerate(spans) if span != (0, shape[axis], 1)]
    writer.require_batch(group.op, 0 not in axes, "it takes a part of the batch")
    return [_sliced(writer, operands[0], {axis: spans[axis] for axis in axes})]


def _reversed(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    axes = group.op.params["dimensions"]
    writer.require_batch(group.op, 0 not in axes, "it reverses the batch")
    return [_sliced(writer, operands[0], dict.fromkeys(axes, (-1, BEYOND_FIRST, -1)))]


def _dynamic_slice(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    """Where it begins is known; a part that would end beyond an axis is moved back, as in JAX."""
    shape, sizes = writer.shape(group.inputs[0]), group.op.params["slice_sizes"]
    spans = {}
    for axis, (whole, size, setting) in enumerate(zip(shape, sizes, group.settings, strict=True)):
        start = min(max(int(setting), 0), whole - size)
        if size != whole:
            spans[axis] = (start, start + size, 1)
    writer.require_batch(group.op, 0 not in spans, "it takes a part of the batch")
    return [_sliced(writer, operands[0], spans)]


def _sliced(writer: Writer, source: Tensor, spans: dict[int, tuple[int, int, int]]) -> Tensor:
    """(start, end, step) of some of the plan's axes."""
    if not spans:
        return source
    starts, ends, steps = zip(*spans.values(), strict=True)
    named = {"starts": starts, "ends": ends, "axes": source.axes(list(spans)), "steps": steps}
    inputs = [writer.graph.integers(name, values) for name, values in named.items()]
    return writer.moved("Slice", source, *inputs)


def _split(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    (source,), params = operands, group.op.params
    writer.require_batch(group.op, params["axis"] != 0, "it divides the batch")
    sizes = writer.graph.integers("sizes", params["sizes"])
    names = writer.graph.nodes(
        "Split",
        source.name,
        sizes,
        outputs=len(params["sizes"]),
        axis=source.order.index(params["axis"]),
    )
    return [writer.rounded(name, source.order, source.site) for name in names]


def _concatenate(writer: Writer, group: Move, operands: list[Tensor | None]) -> list[Tensor]:
    axis = group.op.params["dimension"]
    writer.require_batch(group.op, axis != 0, "it joins along the batch")
    first = next(operand for operand in operands if operand is not None)
    names = [
        _spread_constant(writer, group, position, first)
        if operand is None
        else writer.arranged(operand, first.order).name
        for position, operand in enumerate(operands)
    ]
    joined = writer.graph.node("Concat", *names, axis=first.order.index(axis))
    return [writer.rounded(joined, first.order, group.site)]


def _spread_constant(writer: Writer, group: Move, position: int, beside: Tensor) -> str:
    """A constant to be joined with a tensor: repeated for every example where the batch is open."""
    graph, ones = writer.graph, (1,) * (len(beside.order) - 1)
    name = writer.constant(group, position, beside.order)
    if not writer.open_batch:
        return name
    batch = graph.node("Shape", beside.name, start=0, end=1)
    shape = graph.node("Concat", batch, graph.integers("ones", ones), axis=0)
    spread = graph.node("Expand", name, shape)
    return writer.rounded(spread, beside.order, group.site).name


def _stack(writer: Writer, group: Move, operands: list[Tensor | None]) -> list[Tensor]:
    """The new axis is the last of the file's tensors, wherever it is in the plan's value."""
    new = group.op.params["axis"]
    writer.require_batch(group.op, new != 0, "it stacks before the batch")
    first = next(operand for operand in operands if operand is not None)
    rank = len(first.order)
    order = (*(axis + (axis >= new) for axis in first.order), new)
    where = writer.graph.integers("axes", [rank])
    names = []
    for position, operand in enumerate(operands):
        if operand is None:
            name = _spread_constant(writer, group, position, first)
            operand = Tensor(name, first.order, group.site)
        source = writer.arranged(operand, first.order)
        names.append(writer.moved("Unsqueeze", source, where, order=order).name)
    return [writer.rounded(writer.graph.node("Concat", *names, axis=rank), order, group.site)]


def _tile(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    times = group.op.params["reps"]
    writer.require_batch(group.op, times[0] == 1, "it repeats the batch")
    repeats = writer.graph.integers("repeats", operands[0].sorted(times))
    return [writer.moved("Tile", operands[0], repeats)]


def _extreme(writer: Writer, group: Move, operands: list[Tensor | None]) -> list[Tensor]:
    """The larger, or the smaller, of two tensors."""
    names, order = writer.aligned(group, operands)
    name = writer.graph.node(group.op.name.capitalize(), *names)
    return [writer.rounded(name, order, group.site)]


def _extreme_of(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    """The largest, or the smallest, over some axes."""
    (source,), axes = operands, group.op.params["axes"]
    writer.require_batch(group.op, 0 not in axes, "it reduces the batch")
    kind = group.op.name.replace("reduce_m", "ReduceM")
    left = without(source.order, axes)
    return [writer.moved(kind, source, order=left, axes=source.axes(axes), keepdims=0)]


def _copy(writer: Writer, group: Move, operands: list[Tensor]) -> list[Tensor]:
    return operands


MOVES: dict[str, Form] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "copy": _copy,
    "dynamic_slice": _dynamic_slice,
    "gather": taken,
    "max": _extreme,
    "min": _extreme,
    "pad": _pad,
    "reduce_max": _extreme_of,
    "reduce_min": _extreme_of,
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rev": _reversed,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": _copy,
    "tile": _tile,
    "transpose": _transpose,
}
