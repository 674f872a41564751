"""Convolutions: of pictures, and of sequences, which files convolve as pictures one row high.

Sequences [B, T, C] become pictures [B, 1, T, C] and back by moves, which round nothing.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax import lax

from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.plan import Move, Weighted
from jaxmini.compress.quantize.program import Op
from jaxmini.compress.quantize.refusal import check_conv
from jaxmini.compress.quantize.upsampling import is_transposed, transposed_convolution
from jaxmini.state import Array


def convolution(grouping: Grouping, op: Op) -> None:
    """A convolution with a kernel, its affine chain, its rectifier.

    Raises:
        ValueError: it is not one of pictures or sequences, channels last.
    """
    check_conv(op)
    picture = op if len(op.params["window_strides"]) == 2 else _raised(grouping, op)
    if is_transposed(op):
        transposed_convolution(grouping, picture, op.outputs[0])
        return
    inputs, kernel = grouping.inputs(picture)
    channels = grouping.program.shape(op.outputs[0])[-1:]
    chain, last = grouping.absorb_chain(op.outputs[0], channels)
    clamp, last = grouping.absorb_clamp(last)
    clip, name = grouping.clip_after(last), grouping.name(op)
    outputs = (last if picture is op else picture.outputs[0],)
    group = grouping.add(
        Weighted(name, name, (inputs,), outputs, picture, kernel, chain, channels, clamp, clip)
    )
    if picture is not op:
        _, (move,) = grouping.emit(_lowered, list(outputs), op.path)
        move = dataclasses.replace(move, outputs=(last,))
        grouping.add(Move(grouping.name(move), group.site, move.inputs, move.outputs, move))


def _raised(grouping: Grouping, op: Op) -> Op:
    """A convolution of sequences as one of pictures, behind the move that makes these."""
    source, kernel = grouping.inputs(op)
    (picture,), (move,) = grouping.emit(_picture, [source], op.path)
    site = grouping.site_of[source]
    grouping.add(Move(grouping.name(move), site, (source,), move.outputs, move))
    (kernel,), _ = grouping.emit(_row, [kernel], op.path)
    convolve = functools.partial(_convolve, op.params)
    _, (convolution,) = grouping.emit(convolve, [picture, kernel], op.path)
    return convolution


def _picture(values: Array) -> jax.Array:
    """[B, T, C] -> [B, 1, T, C]."""
    batch, *rest = values.shape
    return lax.reshape(values, (batch, 1, *rest))


def _row(kernel: Array) -> jax.Array:
    """[K, I, O] -> [1, K, I, O]."""
    return lax.reshape(kernel, (1, *kernel.shape))


def _lowered(values: Array) -> jax.Array:
    """[B, 1, T, C] -> [B, T, C]."""
    batch, _, *rest = values.shape
    return lax.reshape(values, (batch, *rest))


def _convolve(params: dict[str, Any], inputs: Array, kernel: Array) -> jax.Array:
    return lax.conv_general_dilated(
        inputs,
        kernel,
        window_strides=(1, *params["window_strides"]),
        padding=((0, 0), *params["padding"]),
        lhs_dilation=(1, *params["lhs_dilation"]),
        rhs_dilation=(1, *params["rhs_dilation"]),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=params["feature_group_count"],
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
