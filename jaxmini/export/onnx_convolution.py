"""ONNX convolutions: channels first, where JAX's have them last."""

from collections.abc import Sequence

import numpy as np

from jaxmini.compress.quantize.program import Op
from jaxmini.export.onnx_layout import Tensor, Writer, channels_first, refusal


def outputs_first(kernel: np.ndarray) -> np.ndarray:
    """A kernel HWIO as OIHW, of any number of spatial axes."""
    rank = kernel.ndim
    return np.ascontiguousarray(kernel.transpose(rank - 1, rank - 2, *range(rank - 2)))


def convolved(
    writer: Writer, op: Op, source: Tensor, window: Sequence[int], weights: Sequence[str]
) -> Tensor:
    """What a convolution gives, not yet rounded.

    Args:
        op: with channels last, its input not dilated.
        source: what it reads.
        window: spatial sizes of the kernel.
        weights: names of the kernel, outputs first, and of the bias if there is one.

    Raises:
        ValueError: its padding is negative.
    """
    params, source = op.params, writer.arranged(source, channels_first(len(source.order)))
    if any(side < 0 for sides in params["padding"] for side in sides):
        raise refusal(op, "its padding is negative", "cut the picture with a slice")
    name = writer.graph.node(
        "Conv",
        source.name,
        *weights,
        kernel_shape=window,
        strides=params["window_strides"],
        pads=[side[end] for end in range(2) for side in params["padding"]],
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )
    return source._replace(name=name)


def is_plain(op: Op, rank: int) -> bool:
    """Whether a convolution has channels last, a kernel HWIO, and neither groups the batch nor spreads."""
    numbers, params = op.params["dimension_numbers"], op.params
    usual = (channels_first(rank), channels_first(rank), (rank - 1, rank - 2, *range(rank - 2)))
    return (
        (numbers.lhs_spec, numbers.out_spec, numbers.rhs_spec) == usual
        and params["batch_group_count"] == 1
        and all(step == 1 for step in params["lhs_dilation"])
    )
