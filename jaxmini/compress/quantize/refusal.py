"""Refusal: what cannot become integers, said with the operation, its module and the way out."""

from typing import NoReturn

import jax.numpy as jnp

from jaxmini.compress.quantize.program import Op, Program

REMEDIES = {
    "argmax": "return the logits, and take the largest outside the quantized model",
    "cond": "write the choice in Python",
    "convert_element_type": "compute in floats; look up numbers of tokens with nn.Embed",
    "erf": "use relu or relu6 for gelu",
    "eq": "return the logits; use nn.Embed for one_hot",
    "exp": "return the logits, and leave softmax to the loss",
    "ge": "use relu or relu6 for leaky_relu",
    "gt": "use relu or relu6 for leaky_relu",
    "integer_pow": "use BatchNorm for LayerNorm, relu for gelu",
    "log": "return the logits, and leave log_softmax to the loss",
    "logistic": "use relu or relu6 for sigmoid and silu",
    "max": "use relu or relu6; return the logits, and leave softmax to the loss",
    "min": "use relu6",
    "rsqrt": "use BatchNorm for LayerNorm and GroupNorm",
    "square": "use BatchNorm for LayerNorm and GroupNorm",
    "tanh": "use relu or relu6 for tanh and gelu",
    "while": "give the loop a fixed number of steps (lax.scan, lax.fori_loop), or write it in Python",
}


def refuse(op: Op, reason: str | None = None, remedy: str | None = None) -> NoReturn:
    """Raise the ValueError that says why ``op`` cannot be quantized."""
    where = f"the module {op.path}" if op.path else "the model"
    reason = reason or f"the operation {op.name!r} has no int8 form"
    remedy = remedy or REMEDIES.get(
        op.name, "compute it outside the quantized model, or replace it"
    )
    raise ValueError(f"quantize: {reason} ({op.name!r} in {where}): {remedy}")


def check_batch_statistics(op: Op) -> None:
    """Refuse what mixes the examples of a batch: BatchNorm in batch-statistics mode, as a rule."""
    if op.name.startswith("reduce_") and 0 in op.params.get("axes", ()):
        refuse(
            op,
            "inference computes statistics over the batch",
            "make BatchNorm use its running statistics, "
            "nn.BatchNorm(use_running_average=not train)",
        )


def check_float32(op: Op, program: Program) -> None:
    """Refuse activations of another dtype."""
    for value in op.outputs:
        if program.types[value].dtype != jnp.float32:
            refuse(op, f"it computes in {program.types[value].dtype}", "build the model in float32")


def check_conv(op: Op) -> None:
    """Refuse convolutions that are not NHWC with a HWIO kernel."""
    numbers, rank = op.params["dimension_numbers"], len(op.params["window_strides"]) + 2
    channels_last = (0, rank - 1, *range(1, rank - 1))
    layout = numbers.lhs_spec, numbers.out_spec, numbers.rhs_spec
    if layout != (channels_last, channels_last, (rank - 1, rank - 2, *range(rank - 2))):
        refuse(op, f"its layout is {layout}", "use linen's layout, NHWC with HWIO kernels")
    if op.params["batch_group_count"] != 1:
        refuse(op, "it groups the batch", "use feature_group_count")
