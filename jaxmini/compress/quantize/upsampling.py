"""Upsampling: a transposed convolution as the ordinary one whose channels are its pixels' phases.

Output pixels of one phase (their remainder by the stride) see the same part of the kernel, so one
convolution with a channel a phase computes them all, and a move interleaves them (Shi et al., 2016). It is
exact for every kernel, stride and padding, and runs where converters write wrong transposed convolutions.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmini.compress.quantize.fold import Affine
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.plan import Move, Weighted
from jaxmini.compress.quantize.program import Op
from jaxmini.compress.quantize.refusal import refuse
from jaxmini.state import Array


class Phases(NamedTuple):
    """One axis of a transposed convolution, seen from its input.

    Attributes:
        stride: number of phases.
        window: input pixels that an output pixel sees.
        front, back: zeros that make the kernel ``stride * window`` long.
        padding: of the input.
        size: output pixels.
    """

    stride: int
    window: int
    front: int
    back: int
    padding: tuple[int, int]
    size: int


def is_transposed(op: Op) -> bool:
    """Whether a convolution is a transposed one: it spreads its input."""
    return any(step != 1 for step in op.params["lhs_dilation"])


def transposed_convolution(grouping: Grouping, op: Op, leaves: int) -> None:
    """A convolution with a channel a phase, then the moves that interleave its channels.

    Args:
        op: of pictures.
        leaves: the value that the convolution leaves in the program: pictures, or sequences.
    """
    _check(op)
    source, kernel = grouping.inputs(op)
    shape = grouping.program.shape
    axes, channels = phases_of(shape(source), shape(kernel), op.params), shape(kernel)[-1]
    chain, last = grouping.absorb_chain(leaves, (channels,))
    clamp, last = grouping.absorb_clamp(last)
    clip = grouping.clip_after(last)
    phases = math.prod(axis.stride for axis in axes)
    chain = tuple(_repeated(grouping, step, channels, phases, op.path) for step in chain)
    dilation = op.params["rhs_dilation"]
    emit = functools.partial(grouping.emit, path=op.path)
    (kernel,), _ = emit(functools.partial(_phase_kernel, axes, dilation), [kernel])
    (value,), (conv,) = emit(functools.partial(_convolve, axes), [source, kernel])
    name, wide = grouping.name(op, "conv_transpose"), (phases * channels,)
    group = grouping.add(
        Weighted(name, name, (source,), (value,), conv, kernel, chain, wide, clamp, clip)
    )
    _, moves = emit(functools.partial(_interleave, axes, shape(leaves)), [value])
    moves[-1] = dataclasses.replace(moves[-1], outputs=(last,))
    for move in moves:
        grouping.add(Move(grouping.name(move), group.site, move.inputs, move.outputs, move))


def upsampled(inputs: Array, kernel: Array, params: Mapping[str, Any]) -> jax.Array:
    """What a transposed convolution of pictures gives, without groups and strides, by its phases.

    Args:
        inputs: [B, H, W, I].
        kernel: [h, w, I, O].
        params: those of ``conv_general_dilated``.
    """
    axes = phases_of(inputs.shape, kernel.shape, params)
    phases = _convolve(axes, inputs, _phase_kernel(axes, params["rhs_dilation"], kernel))
    sizes = (axis.size for axis in axes)
    return _interleave(axes, (inputs.shape[0], *sizes, kernel.shape[-1]), phases)


def phases_of(
    inputs: tuple[int, ...], kernel: tuple[int, ...], params: Mapping[str, Any]
) -> tuple[Phases, ...]:
    """The phases of each axis of pictures.

    Args:
        inputs, kernel: their shapes, [B, H, W, I] and [h, w, I, O].
        params: those of ``conv_general_dilated``.
    """
    spread, dilation = params["lhs_dilation"], params["rhs_dilation"]
    sizes = zip(inputs[1:-1], kernel[:-2], spread, dilation, params["padding"], strict=True)
    return tuple(_phases(*each) for each in sizes)


def _check(op: Op) -> None:
    if op.params["feature_group_count"] != 1:
        refuse(op, "it is a transposed convolution of groups", "transpose without groups")
    if any(step != 1 for step in op.params["window_strides"]):
        refuse(op, "it spreads its input and strides", "use one of the two")


def _phases(inputs: int, taps: int, stride: int, dilation: int, padding: tuple[int, int]) -> Phases:
    """Output ``stride * m + p`` is the sum over taps j of input ``m + (p - low + j) / stride``, if whole."""
    taps, low = dilation * (taps - 1) + 1, padding[0]
    size = (inputs - 1) * stride + 1 + sum(padding) - taps + 1
    first, last = -(low // stride), (stride + taps - 2 - low) // stride
    window = last - first + 1
    front = stride - 1 - low - stride * first
    high = -(-size // stride) - inputs + window - 1 + first
    return Phases(stride, window, front, stride * window - front - taps, (-first, high), size)


def _phase_kernel(axes: tuple[Phases, ...], dilation: tuple[int, ...], kernel: Array) -> jax.Array:
    """The kernel [h, w, I, O] as [window, window, I, phases * O]."""
    sides = [(axis.front, axis.back, step - 1) for axis, step in zip(axes, dilation, strict=True)]
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*sides, (0, 0, 0), (0, 0, 0)])
    (tall, wide), channels = axes, kernel.shape[2:]
    kernel = kernel.reshape(tall.window, tall.stride, wide.window, wide.stride, *channels)
    kernel = jnp.flip(kernel, (1, 3)).transpose(0, 2, 4, 1, 3, 5)
    return kernel.reshape(tall.window, wide.window, channels[0], -1)


def _convolve(axes: tuple[Phases, ...], inputs: Array, kernel: Array) -> jax.Array:
    padding, layout = [axis.padding for axis in axes], ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(inputs, kernel, (1, 1), padding, dimension_numbers=layout)


def _interleave(axes: tuple[Phases, ...], shape: tuple[int, ...], values: Array) -> jax.Array:
    """[B, rows, columns, phases * O] -> [B, H, W, O], or [B, W, O] of one row."""
    (tall, wide), (batch, rows, columns, _) = axes, values.shape
    values = values.reshape(batch * rows, columns, tall.stride, -1).transpose(0, 2, 1, 3)
    values = values.reshape(batch, rows * tall.stride, columns * wide.stride, -1)
    return values[:, : tall.size, : wide.size].reshape(shape)


def _repeated(grouping: Grouping, step: Affine, channels: int, phases: int, path: str) -> Affine:
    """A step of the chain, for each phase."""
    if step.operand is None or math.prod(grouping.program.shape(step.operand)) == 1:
        return step

    def repeat(operand: Array) -> jax.Array:
        return jnp.concatenate([operand.reshape(channels)] * phases)

    (operand,), _ = grouping.emit(repeat, [step.operand], path)
    return dataclasses.replace(step, operand=operand)
