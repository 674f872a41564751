"""Rules: what each primitive becomes in an integer file, one function a kind of group.

An operation without a rule is an error: what training did not see would be wrong in the file.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxmini.compress.quantize import functions, islands, masks, norms, points, products, questions
from jaxmini.compress.quantize.contraction import is_plain, rearranged
from jaxmini.compress.quantize.convolutions import convolution
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.lookup import looked_up
from jaxmini.compress.quantize.moving import joined, padded, selected, taken
from jaxmini.compress.quantize.patterns import divides, rectified, scalar
from jaxmini.compress.quantize.plan import (
    INPUT,
    AveragePool,
    Elementwise,
    Mean,
    Move,
    Plan,
    Rectifier,
    Weighted,
)
from jaxmini.compress.quantize.program import Literal, Op, Program, Value
from jaxmini.compress.quantize.refusal import (
    check_answers,
    check_batch_statistics,
    check_float32,
    refuse,
    refuse_answers,
)


def group(
    program: Program,
    input_grid: Grid | None = None,
    declared: Sequence[islands.float_island | norms.integer_norm] = (),
) -> Plan:
    """The plan of a program.

    Args:
        input_grid: the grid of the model's input where it is known (that of its pixels).
        declared: the parts that stay in float, and the normalisations that do not.

    Raises:
        ValueError: something between the input and the output has no int8 form; names the operation, its
            module, and what to do.
    """
    if (dtype := program.types[program.input].dtype) not in (np.float32, np.int32):
        raise ValueError(
            f"quantize: the model's input is {dtype}: give it normalised pictures in float32, or the "
            "numbers of tokens in int32"
        )
    if dtype == np.int32 and input_grid is not None:
        raise ValueError("quantize: the model's input is int32, token numbers: they have no grid")
    grouping = Grouping(program)
    active = [op for op in program.ops if grouping.is_activation(op.outputs[0])]
    if dtype == np.int32:  # what is done to numbers of tokens is for lookups and masks to judge
        active = [op for op in active if program.types[op.outputs[0]].dtype == np.float32]
    for op in active:
        check_batch_statistics(op, program)
    regions = islands.find(grouping, [d for d in declared if isinstance(d, islands.float_island)])
    integer = norms.chosen(regions, [d for d in declared if isinstance(d, norms.integer_norm)])
    answers = questions.answers(grouping)
    for op in active:
        value = op.outputs[0]
        if value in integer:
            norms.place(grouping, regions[value], _grouped)
        elif value in regions:
            regions[value].place(grouping)
        elif value not in grouping.taken and value not in answers:
            _placed(grouping, op, answers)
    _check_output(grouping, answers)
    return products.arranged(grouping.finish({} if input_grid is None else {INPUT: input_grid}))


def _check_output(grouping: Grouping, answers: Mapping[Value, questions.Answer]) -> None:
    if grouping.output in answers:
        refuse_answers(grouping.producers[grouping.output])
    if not grouping.is_activation(grouping.output):
        raise ValueError("quantize: the model's output does not depend on its input")


def _placed(grouping: Grouping, op: Op, answers: Mapping[Value, questions.Answer]) -> None:
    """Group a mask by tokens, a function, or what has a rule."""
    if masks.asked_mask(grouping, op, answers) or functions.apply_function(grouping, op):
        return
    _grouped(grouping, op)


def _grouped(grouping: Grouping, op: Op) -> None:
    check_answers(op, grouping.program)
    if op.name not in RULES:
        refuse(op)
    check_float32(op, grouping.program)
    RULES[op.name](grouping, op)


def product(grouping: Grouping, op: Op) -> None:
    """A convolution or matrix product with a kernel, its affine chain, its rectifier."""
    inputs, kernel = grouping.inputs(op)
    is_dot = op.name == "dot_general"
    if grouping.is_activation(kernel) and (grouping.is_activation(inputs) or not is_dot):
        _of_activations(grouping, op)
    elif not is_dot:
        convolution(grouping, op)
    elif not is_plain(grouping, op):
        rearranged(grouping, op, product)
    else:
        _dense(grouping, op)


def _dense(grouping: Grouping, op: Op) -> None:
    """A product of the last axes of an activation with the first of a kernel."""
    inputs, kernel = grouping.inputs(op)
    rank = len(grouping.program.shape(inputs)) - len(op.params["dimension_numbers"][0][0])
    channels = grouping.program.shape(op.outputs[0])[rank:]
    chain, value = grouping.absorb_chain(op.outputs[0], channels)
    clamp, value = grouping.absorb_clamp(value)
    clip, name = grouping.clip_after(value), grouping.name(op)
    grouping.add(
        Weighted(name, name, (inputs,), (value,), op, kernel, chain, channels, clamp, clip)
    )


def _of_activations(grouping: Grouping, op: Op) -> None:
    if op.name != "dot_general":
        refuse(op, "its kernel is computed from the input", "give it a kernel of its own")
    products.product(grouping, op)


def _arithmetic(grouping: Grouping, op: Op) -> None:
    """A sum, difference or product; of a number a channel it is a scaling, with all that follows."""
    if masks.added_mask(grouping, op):
        return
    inputs = grouping.inputs(op)
    sources = [value for value in inputs if grouping.is_activation(value)]
    shape = grouping.program.shape(sources[0])
    step = grouping.affine(op, sources[0], shape[-1:]) if 2 <= len(shape) <= 4 else None
    if step is not None:
        chain, value = grouping.absorb_chain(op.outputs[0], shape[-1:])
        clamp, value = grouping.absorb_clamp(value)
        clip, chain = grouping.clip_after(value), (step, *chain)
        name, source = grouping.name(op, "scale"), (sources[0],)
        grouping.add(
            Weighted(name, name, source, (value,), op, None, chain, shape[-1:], clamp, clip)
        )
        return
    if op.name not in ("add", "sub", "mul"):
        refuse(op)
    clamp, value = grouping.absorb_clamp(op.outputs[0])
    clip, name = grouping.clip_after(value), grouping.name(op)
    grouping.add(Elementwise(name, name, inputs, (value,), op, clamp, clip))


def _mean(grouping: Grouping, op: Op) -> None:
    """A sum over pixels, divided by their number."""
    (source,) = grouping.inputs(op)
    axes = op.params["axes"]
    count = math.prod(grouping.program.shape(source)[axis] for axis in axes)
    value = op.outputs[0]
    reader = grouping.only_consumer(value)
    if reader is not None and reader.name in ("broadcast_in_dim", "reshape"):
        value = grouping.take(reader)
        reader = grouping.only_consumer(value)
    if not divides(reader, count):
        refuse(op, "a sum that is no mean has no int8 form", f"take the mean over axes {axes}")
    value = grouping.take(reader)
    name, shape = grouping.name(op), grouping.program.shape(value)
    grouping.add(Mean(name, name, (source,), (value,), op, tuple(axes), count, shape))


def _average_pool(grouping: Grouping, op: Op) -> None:
    """A sum over windows, divided by their size."""
    (source,) = grouping.inputs(op)
    count = math.prod(op.params["window_dimensions"])
    reader = grouping.only_consumer(op.outputs[0])
    if not divides(reader, count):
        refuse(
            op,
            "windows are not divided by one number",
            "use nn.avg_pool with count_include_pad=True or padding='VALID'",
        )
    if any(step != 1 for step in (*op.params["base_dilation"], *op.params["window_dilation"])):
        refuse(op, "its windows are dilated", "use nn.avg_pool")
    clamp, value = grouping.absorb_clamp(grouping.take(reader))
    name, site = grouping.name(op), grouping.site_of[source]
    grouping.add(AveragePool(name, site, (source,), (value,), op, count, clamp))


def _rectifier(grouping: Grouping, op: Op) -> None:
    """A rectifier that no group before it could take, or the larger of an activation and something."""
    clamp = rectified(op, None)
    if clamp is None:
        joined(grouping, op, f"{op.name}imum")
        return
    (source,) = filter(grouping.is_activation, grouping.inputs(op))
    clamp, value = grouping.absorb_clamp(op.outputs[0], clamp)
    name = grouping.name(op, "relu")
    grouping.add(Rectifier(name, grouping.site_of[source], (source,), (value,), op, clamp))


def _move(grouping: Grouping, op: Op) -> None:
    """Numbers that move and do not change stay on their grid."""
    source, *settings = grouping.inputs(op)
    if op.name == "pad" and scalar(settings[0]) != 0:
        padded(grouping, op)
        return
    if not all(isinstance(value, Literal) for value in settings):
        refuse(op, "it moves by numbers that are not known before it runs", "use static shapes")
    arrays = tuple(np.asarray(value.value) for value in settings)
    name, site = grouping.name(op), grouping.site_of[source]
    grouping.add(Move(name, site, (source,), op.outputs, op, arrays))


def _concatenate(grouping: Grouping, op: Op) -> None:
    """All that is joined; padding that repeats an edge joins nothing along the other axes."""
    kept = tuple(v for v in op.inputs if 0 not in grouping.program.shape(v))
    joined(grouping, dataclasses.replace(op, inputs=kept))


def _select(grouping: Grouping, op: Op) -> None:
    """A mask of scores, or a choice between numbers by places that are known."""
    (masks.selection if masks.is_mask(grouping, op) else selected)(grouping, op)


def _gather(grouping: Grouping, op: Op) -> None:
    """Known places of an activation, or rows of a table at the input's numbers."""
    (taken if grouping.is_activation(op.inputs[0]) else looked_up)(grouping, op)


RULES: dict[str, Callable[[Grouping, Op], None]] = {
    "conv_general_dilated": product,
    "dot_general": product,
    **dict.fromkeys(("add", "sub", "mul", "div", "neg"), _arithmetic),
    "name": points.point,
    "reduce_sum": _mean,
    "reduce_window_sum": _average_pool,
    **dict.fromkeys(("relu", "relu6", "max", "min"), _rectifier),
    **dict.fromkeys(("concatenate", "stack"), _concatenate),
    "gather": _gather,
    "select_n": _select,
    **dict.fromkeys(
        (
            "broadcast_in_dim",
            "copy",
            "dynamic_slice",
            "pad",
            "reduce_max",
            "reduce_min",
            "reduce_window_max",
            "reshape",
            "rev",
            "slice",
            "split",
            "squeeze",
            "stop_gradient",
            "tile",
            "transpose",
        ),
        _move,
    ),
}
