"""Packing: which kernels a .tflite file stores two numbers to a byte, and what a kernel then takes."""

from jaxmini.compress.quantize.plan import Plan, Weighted

# Of the narrow integers of a file. Kernels of fewer bits are stored in as many, those of more in eight.
PACKED_BITS = 4


def is_packable(plan: Plan, group: Weighted) -> bool:
    """Whether a file can store a group's kernel as int4, if it has at most four bits.

    LiteRT's reference kernels know none of int4 for a depthwise convolution, which a scaling of channels is
    too, and nothing does of int16 activations. A file of float operators widens its kernels before they are
    used, whatever the operator.
    """
    return plan.rounds_kernels_alone or not (plan.is_wide or _is_depthwise(plan, group))


def stored_bytes(weights: int, bits: int, *, packed: bool) -> int:
    """What a file stores a kernel in: a byte a number, or half of one where it packs kernels so narrow."""
    return -(-weights // 2) if packed and bits <= PACKED_BITS else weights


def _is_depthwise(plan: Plan, group: Weighted) -> bool:
    """Whether each output channel is computed of one input channel alone."""
    if group.op.name != "conv_general_dilated":
        return group.kernel is None
    axis = group.op.params["dimension_numbers"].lhs_spec[1]
    channels = plan.program.shape(group.inputs[0])[axis]
    return group.op.params["feature_group_count"] == channels
