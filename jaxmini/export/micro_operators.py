"""Which operators TFLite-Micro runs, on which numbers, what to use for the others, and their names in C++.

Its resolver knows fewer operators than LiteRT, and several of those it knows have float kernels alone.
"""

from collections.abc import Callable

import numpy as np

from jaxmini.export.constraints import CHANNEL_AXIS
from jaxmini.export.flatbuffer import File, Op

# The methods of tflite::MicroMutableOpResolver that take no argument, by the operators they add.
_NAMES = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D
DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL
FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF
L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC
LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE
READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR
RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH
TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
"""
KNOWN = frozenset(_NAMES.split())

# Where the method's name is not the operator's in camel case.
IRREGULAR = {
    "BATCH_MATMUL": "AddBatchMatMul",
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}

# Operators whose kernels compute floats alone.
FLOAT_ONLY = frozenset(
    ("CEIL", "COS", "EXP", "FLOOR", "FLOOR_DIV", "LOG", "NEG", "ROUND", "SIN", "SQRT", "SQUARE")
)

ALTERNATIVES = {
    "CUSTOM": "write the layer with builtin operators",
    "EXP": "end in logits, or in a softmax, which is one operator",
    "GELU": "use relu, relu6 or hard_swish",
    "LOG": "end in logits, and leave the logarithm to the loss",
    "NEG": "subtract instead of adding the negative",
    "POW": "multiply the number by itself",
    "REDUCE_PROD": "multiply the parts",
    "RELU_0_TO_1": "use relu or relu6",
    "RELU_N1_TO_1": "use relu or relu6",
    "SELECT": "use relu for where(x > 0, x, 0), and for elu; of choices there is SELECT_V2 alone",
    "SQRT": "use BatchNorm for LayerNorm; compare squared distances",
    "SQUARE": "multiply the number by itself; use BatchNorm for LayerNorm",
}
OTHERWISE = "compute it outside the network, or replace the layer"
INTEGERS_REMEDY = "train the network with quantize=int8() and export it as variant='int8'"
ISLANDS_REMEDY = (
    "use BatchNorm for LayerNorm, or int8(rules=(integer_norm(),)), and declare no float_island"
)

SHOWN = 4  # places that a message names


def adder(name: str) -> str:
    """The resolver's method that adds an operator: ``AddConv2D`` for ``CONV_2D``."""
    # "2D" keeps its capital, which capitalize() would take away.
    words = (word if word[0].isdigit() else word.capitalize() for word in name.split("_"))
    return IRREGULAR.get(name, f"Add{''.join(words)}")


def obstacles(file: File) -> tuple[str, ...]:
    """Why TFLite-Micro would not run the file: the operators in its way, and what to use instead.

    What is left is known only by running it.
    """
    ends = {"input": file.inputs, "output": file.outputs}
    several = [
        f"it has {len(indices)} {what}s; one is expected"
        for what, indices in ends.items()
        if len(indices) != 1
    ]
    return (*several, *unknown(file))


def unknown(file: File) -> tuple[str, ...]:
    """The same of a file of several inputs or outputs, which its interpreter can be given one by one."""
    several = []
    if len(file.signatures) > 1:  # whose weights are shared, at which it crashes
        several.append(f"it has the signatures {', '.join(file.signatures)}; one is expected")
    return (*several, *_listed(file, _obstacle))


def float_operators(file: File) -> tuple[str, ...]:
    """The operators that read or give floats, which a controller computes slowly if at all."""
    return _listed(file, _of_floats)


def _listed(file: File, judge: Callable[[File, Op], str | None]) -> tuple[str, ...]:
    """A line for each reason that an operator of a name gives, with the first places it is at."""
    found: dict[tuple[str, str], list[int]] = {}
    for index, op in enumerate(file.ops):
        if (reason := judge(file, op)) is not None:
            found.setdefault((op.name, reason), []).append(index)
    return tuple(
        f"{name} {reason} (operator{'s' * (len(places) > 1)} {_places(places)})"
        for (name, reason), places in found.items()
    )


def _places(indices: list[int]) -> str:
    shown, more = indices[:SHOWN], len(indices) - SHOWN
    return ", ".join(map(str, shown)) + (f" and {more} more" if more > 0 else "")


def _of_floats(file: File, op: Op) -> str | None:
    if not any(kind.kind == "f" for kind in _dtypes(file, op)):
        return None
    is_island = file.tensors[file.inputs[0]].dtype == np.int8
    return f"computes in floats: {ISLANDS_REMEDY if is_island else INTEGERS_REMEDY}"


def _obstacle(file: File, op: Op) -> str | None:
    alternative = ALTERNATIVES.get(op.name, OTHERWISE)
    if op.name not in KNOWN:
        return f"is not an operator of TFLite-Micro: {alternative}"
    kinds = _dtypes(file, op)
    if op.name in FLOAT_ONLY and not any(kind.kind == "f" for kind in kinds):
        return f"has no integer kernel in TFLite-Micro: {alternative}"
    if np.dtype(np.float16) in kinds:
        return f"reads float16 weights, which TFLite-Micro does not widen: {INTEGERS_REMEDY}"
    if op.name == "CAST" and np.dtype(np.uint8) in kinds:
        return "reads uint8, which TFLite-Micro does not: give a float network float32 pixels"
    return _kernel_obstacle(file, op) if op.name in CHANNEL_AXIS else None


def _kernel_obstacle(file: File, op: Op) -> str | None:
    image, kernel = (file.tensors[index] for index in op.inputs[:2])
    if image.dtype.kind == "f" and kernel.dtype.kind != "f":  # computed together in LiteRT alone
        return (
            f"multiplies floats by {kernel.dtype}, which TFLite-Micro does not: {INTEGERS_REMEDY}"
        )
    if (op.name, kernel.bits) == ("FULLY_CONNECTED", 4) and kernel.scale.size > 1:
        return (
            "has an int4 kernel with a scale for each channel, which TFLite-Micro's dense layer refuses: "
            "give it one scale, or 8 bits"
        )
    return None


def _dtypes(file: File, op: Op) -> set[np.dtype]:
    return {file.tensors[index].dtype for index in (*op.inputs, *op.outputs) if index >= 0}
