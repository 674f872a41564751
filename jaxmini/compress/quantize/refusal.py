"""Refusal: what cannot become integers, said with the operation, its module and the way out."""

from typing import NoReturn

import jax.numpy as jnp

from jaxmini.compress.quantize.program import Op, Program

NORMALIZE = "write normalisation as nn.LayerNorm or nn.RMSNorm, whose parts stay together"

KNOWN_BEFORE = (
    "make masks and choices of constants, what is known before the model runs (its shapes), or quantize with "
    "weights_only(), which leaves all but kernels as it is"
)

ANSWERED = "it makes numbers of a question that the model asks of its input, as a mask of padding"

# What may be done with the numbers of tokens besides.
OF_TOKENS = (
    "ask each token by itself, tokens != 0, and hide places from attention by it, as "
    "nn.MultiHeadDotProductAttention does with mask= or jnp.where(mask, scores, -1e9); in place of a mean "
    "over some places read one of them, x[:, 0], or take the mean over all; look up numbers of tokens with "
    "nn.Embed; or quantize with weights_only(), which leaves all but kernels as it is"
)

CURVES = "use nn.gelu, nn.silu or nn.hard_swish for elu, softplus and their like"

RUNNING = "make BatchNorm use its running statistics, nn.BatchNorm(use_running_average=not train)"

EACH_ALONE = (
    "the answer to an example must not depend on the others: leave the first axis out, x.sum((1, 2, 3)) of "
    "pictures in place of x.sum()"
)

REMEDIES = {
    "argmax": "return the logits, and take the largest outside the quantized model",
    "cond": "write the choice in Python",
    "custom_jvp_call": CURVES,
    "convert_element_type": "compute in floats; look up numbers of tokens with nn.Embed, and for a mask "
    "ask of them, tokens > 0",
    "eq": "return the logits; use nn.Embed for one_hot",
    "erf": "use the tanh form, nn.gelu(x, approximate=True)",
    "erfc": "use the tanh form, nn.gelu(x, approximate=True)",
    "exp": "use jax.nn.softmax over the last axis",
    "expm1": CURVES,
    "ge": f"use nn.relu or nn.leaky_relu for a choice by sign; {KNOWN_BEFORE}",
    "gt": f"use nn.relu or nn.leaky_relu for a choice by sign, {CURVES}; {KNOWN_BEFORE}",
    "integer_pow": "write the power as products; gelu as nn.gelu(x, approximate=True)",
    "log": "return the logits, and leave log_softmax to the loss",
    "log1p": CURVES,
    "logaddexp": CURVES,
    "rsqrt": NORMALIZE,
    "sqrt": NORMALIZE,
    "square": f"write x * x; {NORMALIZE}",
    "while": "give the loop a fixed number of steps (lax.scan, lax.fori_loop), or write it in Python",
}


def refuse(
    op: Op, reason: str | None = None, remedy: str | None = None, *, in_float: bool = True
) -> NoReturn:
    """Raise the ValueError that says why ``op`` cannot be quantized; ``in_float``: an island can hold it."""
    where = f"the module {op.path}" if op.path else "the model"
    reason = reason or f"the operation {op.name!r} has no int8 form"
    remedy = remedy or REMEDIES.get(
        op.name, "compute it outside the quantized model, or replace it"
    )
    module = op.path.partition("/")[2]
    island = f", or declare it a float_island({module!r})" if module and in_float else ""
    raise ValueError(f"quantize: {reason} ({op.name!r} in {where}): {remedy}{island}")


def check_batch_statistics(op: Op, program: Program) -> None:
    """Refuse what mixes the examples of a batch: BatchNorm in batch-statistics mode, as a rule."""
    axes = op.params.get("axes", ()) if op.name.startswith("reduce_") else ()
    if 0 in axes:
        remedy = RUNNING if _is_batch_norms(op, program) else EACH_ALONE
        refuse(op, "inference computes statistics over the batch", remedy, in_float=False)


def _is_batch_norms(op: Op, program: Program) -> bool:
    """Whether the module is one, or it is a sum over all but the channels, as one of its makes it."""
    rank = len(program.shape(op.inputs[0]))
    over_all_but_channels = sorted(op.params["axes"]) == list(range(rank - 1))
    return "BatchNorm" in op.path or (op.name == "reduce_sum" and over_all_but_channels)


def check_answers(op: Op, program: Program) -> None:
    """Refuse numbers that are made of yes and no: masks, one_hot."""
    types = [program.types[value].dtype for value in op.inputs if isinstance(value, int)]
    if op.name == "convert_element_type" and types == [jnp.bool_]:
        if program.types[program.input].dtype == jnp.int32:
            refuse_answers(op)
        refuse(op, ANSWERED, KNOWN_BEFORE)


def refuse_answers(op: Op) -> NoReturn:
    """Refuse numbers that are made of a question of tokens, and are no mask of attention."""
    refuse(op, ANSWERED, OF_TOKENS, in_float=False)


def check_float32(op: Op, program: Program, *, answers: bool = False) -> None:
    """Refuse activations of another dtype, but yes and no where ``answers`` may be."""
    for value in op.outputs:
        if program.types[value].dtype == jnp.bool_:
            if answers:
                continue
            refuse(op, "it asks a question of numbers that the model computes", KNOWN_BEFORE)
        if program.types[value].dtype != jnp.float32:
            refuse(op, f"it computes in {program.types[value].dtype}", "build the model in float32")


def check_conv(op: Op) -> None:
    """Refuse convolutions that are not of pictures or sequences, channels last in input and kernel."""
    numbers, rank = op.params["dimension_numbers"], len(op.params["window_strides"]) + 2
    if rank - 2 not in (1, 2):
        refuse(
            op,
            f"it is a convolution along {rank - 2} axes",
            "convolve along one or two: make the others examples or channels by a reshape",
        )
    channels_last = (0, rank - 1, *range(1, rank - 1))
    layout = numbers.lhs_spec, numbers.out_spec, numbers.rhs_spec
    if layout != (channels_last, channels_last, (rank - 1, rank - 2, *range(rank - 2))):
        refuse(op, f"its layout is {layout}", "use linen's layout, NHWC with HWIO kernels")
    if op.params["batch_group_count"] != 1:
        refuse(op, "it groups the batch", "use feature_group_count")
