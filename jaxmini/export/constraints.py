"""What an integer file must satisfy to be run rightly by every kernel; no converter checks it.

The rules are those of the LiteRT 8-bit quantization specification, and of what its kernels refuse or
compute wrongly.
"""

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np

from jaxmini.export import edges
from jaxmini.export.flatbuffer import File, Op, Tensor, read
from jaxmini.export.islands import Allowed, FloatOp, collapsed

# Axis of the output channels in each operator's kernel.
CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}

# Operators that move numbers: the grid of their input is that of their output.
SAME_GRID = frozenset(
    {
        "AVERAGE_POOL_2D",
        "BATCH_TO_SPACE_ND",
        "BROADCAST_TO",
        "CONCATENATION",
        "EXPAND_DIMS",
        "GATHER",
        "GATHER_ND",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MINIMUM",
        "MIRROR_PAD",
        "PACK",
        "PAD",
        "PADV2",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "REVERSE_V2",
        "SELECT",
        "SELECT_V2",
        "SLICE",
        "SPACE_TO_BATCH_ND",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SPLIT_V",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TRANSPOSE",
        "UNPACK",
    }
)

# Operators whose kernels know only one output grid: (scale, zero point).
FIXED_GRID = {
    "SOFTMAX": (1 / 256, -128),
    "LOGISTIC": (1 / 256, -128),
    "TANH": (1 / 128, 0),
    "L2_NORMALIZATION": (1 / 128, 0),
    "LOG_SOFTMAX": (16 / 256, 127),
}

FREE_GRID = frozenset(
    {
        "ADD",
        "BATCH_MATMUL",
        "GELU",
        "HARD_SWISH",
        "LEAKY_RELU",
        "MEAN",
        "MUL",
        "RELU",
        "RELU6",
        "RSQRT",
        "SUB",
    }
)

ALLOWED = frozenset(CHANNEL_AXIS) | SAME_GRID | frozenset(FIXED_GRID) | FREE_GRID

# What a file of int16 activations may hold: where the interpreter's kernels are proven to compute what the
# simulation does.
ALLOWED_INT16 = frozenset(CHANNEL_AXIS) | frozenset(
    {
        "ADD",
        "AVERAGE_POOL_2D",
        "EXPAND_DIMS",
        "MAX_POOL_2D",
        "MEAN",
        "MUL",
        "PAD",
        "RESHAPE",
        "SLICE",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TRANSPOSE",
    }
)

# Operators that may see integers of 32 bits that are not constants: the numbers of tokens.
LOOKUPS = frozenset({"GATHER", "GATHER_ND", "RESHAPE"})

# Operators that ask of them, exactly: what they are made of, and leave, are tokens, yes and no.
QUESTIONS = frozenset(
    {
        "BROADCAST_TO",
        "CAST",
        "CONCATENATION",
        "EQUAL",
        "EXPAND_DIMS",
        "GREATER",
        "GREATER_EQUAL",
        "LESS",
        "LESS_EQUAL",
        "LOGICAL_AND",
        "LOGICAL_NOT",
        "LOGICAL_OR",
        "NOT_EQUAL",
        "RESHAPE",
        "SLICE",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TRANSPOSE",
    }
)

REASONS = {
    "SUM": "its int8 reference kernel returns wrong numbers",
    "QUANTIZE": "it rounds once more than training did; give both sides one grid",
    "DEQUANTIZE": "numbers leave the integers there; an annotation is missing after it",
}

# A bias lies on the product of two float32 scales, which a converter may round in its last bit.
BIAS_SCALE_TOLERANCE = 1e-6


class ConstraintError(ValueError):
    """A file breaks rules of 8-bit integer inference; the message lists them all."""


def check_integer(
    source: File | Path | str | bytes,
    islands: Sequence[Allowed] = (),
    *,
    input: str = "int8",
    output: str = "int8",
    activations: str = "int8",
) -> None:
    """Check that a file computes in integers alone and keeps every rule of the specification.

    Args:
        source: a file, its path or its bytes.
        islands: what it computes in float: each exactly once, between these grids, and nothing else.
        input, output: the types that its ends should have. Operators that change other types into int8 are
            allowed there, and nowhere else.
        activations: the type of what is computed, ``int8`` or ``int16``.

    Raises:
        ConstraintError: it does not; lists each operator and the rule it breaks.
        ValueError: not a .tflite file.
    """
    file = source if isinstance(source, File) else read(source)
    other_ends = list(_ends(file, input, output))
    inner = file if other_ends else edges.core(file)
    if broken := other_ends + list(violations(inner, islands, activations)):
        lines = "\n".join(f"  {line}" for line in broken)
        raise ConstraintError(f"the file is not a full-integer one:\n{lines}")


def violations(
    file: File, islands: Sequence[Allowed] = (), activations: str = "int8"
) -> Iterator[str]:
    """Each broken rule of a file, with the operator that breaks it."""
    places = {id(op): index for index, op in enumerate(file.ops)}
    missing, dtype = list(islands), np.dtype(activations)
    allowed = ALLOWED if dtype == np.int8 else ALLOWED_INT16
    ops = collapsed(file).ops
    merged, tokens = _merged(ops), _tokens(file)
    for op in ops:
        last = op.parts[-1] if isinstance(op, FloatOp) else op
        where = f"operator {places[id(last)]} {op.name}"
        if isinstance(op, FloatOp):
            yield from (f"{where}: {line}" for line in _island(file, op, missing, merged))
            continue
        asks = bool(op.outputs) and tokens.issuperset(op.outputs)
        if op.name not in allowed and not asks:
            reason = REASONS.get(op.name, "it has no rule in jaxmini.export.constraints")
            yield f"{where} is not allowed: {reason}"
        types = _types(file, op, dtype, tokens if asks or op.name in LOOKUPS else frozenset())
        for line in (*types, *_kernel(file, op, dtype), *_grids(file, op, dtype)):
            yield f"{where}: {line}"
    for island in missing:
        yield f"the island {island.name} is not in the file"


def _merged(ops: Sequence[Op]) -> frozenset[int]:
    """By identity, the operators in float that belong to more than one island."""
    parts = Counter(id(part) for op in ops if isinstance(op, FloatOp) for part in op.inland)
    return frozenset(part for part, count in parts.items() if count > 1)


def _island(
    file: File, op: FloatOp, missing: list[Allowed], merged: frozenset[int]
) -> Iterator[str]:
    """What is wrong with an island; the declared one that it is is taken from those ``missing``."""
    inputs = tuple(sorted(_grid(file.tensors[index]) for index in op.inputs))
    output = _grid(file.tensors[op.outputs[0]])
    names = " ".join(part.name for part in op.inland)
    found = [island for island in missing if (island.inputs, island.output) == (inputs, output)]
    if not found:
        yield f"numbers leave the integers for {names}, and no such island is declared"
        if shared := ", ".join(part.name for part in op.inland if id(part) in merged):
            yield (
                f"the converter made one of the {shared} that two layers compute of the same numbers: "
                "compute it once in the model and let both read it, or declare a float_island around both"
            )
        return
    missing.remove(found[0])
    known = found[0].operators
    for part in op.inland:
        if known is not None and part.name not in known:
            yield f"the island {found[0].name} holds {part.name}, and may hold {', '.join(sorted(known))}"


def _ends(file: File, input: str, output: str) -> Iterator[str]:
    # Numbers of tokens may come in: each operator is asked whether it may see them.
    ins, outs = ("input", file.inputs, (input, "int32")), ("output", file.outputs, (output,))
    for what, indices, allowed in (ins, outs):
        for index in indices:
            if (found := file.tensors[index].dtype.name) not in allowed:
                yield f"its {what} is {found}, not {allowed[0]}"


def _types(file: File, op: Op, dtype: np.dtype, tokens: Set[int] = frozenset()) -> Iterator[str]:
    """Everything computed is of the type, but for ``tokens``, which may be looked up and asked of.

    Constants may be int8 too (kernels), int32 (bias, axes, shapes) or bool (masks), and int64 beside int16
    (bias), whose zero points are 0.
    """
    constants = (dtype, np.int8, np.int32, np.bool_, *([np.int64] * (dtype == np.int16)))
    for index in (*op.inputs, *op.outputs):
        if index < 0 or index in tokens:
            continue
        tensor = file.tensors[index]
        allowed = (dtype,) if tensor.data is None else constants
        if tensor.dtype not in allowed:
            yield f"tensor {tensor.name!r} is {tensor.dtype}"
        if tensor.dtype in (np.int8, np.int16) and not tensor.is_quantized:
            yield f"tensor {tensor.name!r} is {tensor.dtype} without a scale"
        if tensor.dtype == np.int16 and tensor.zero_point.any():
            yield f"tensor {tensor.name!r} is int16 with a zero point other than 0"
        if not (np.isfinite(tensor.scale).all() and (tensor.scale > 0).all()):
            yield f"tensor {tensor.name!r} has scales that are not positive numbers"


def _tokens(file: File) -> set[int]:
    """The inputs of 32 bits, and what is made of them alone: shaped, or yes and no, and 0 and 1 for these."""
    tokens = {index for index in file.inputs if file.tensors[index].dtype == np.int32}
    for op in file.ops:
        if op.name in QUESTIONS and _are_asked(file, op, tokens):
            tokens.update(op.outputs)
    return tokens


def _are_asked(file: File, op: Op, tokens: Set[int]) -> bool:
    """Whether an operator makes int32, or yes and no, of tokens and constants."""
    read = [index for index in op.inputs if index >= 0 and file.tensors[index].data is None]
    kinds = {file.tensors[index].dtype.name for index in op.outputs}
    return bool(read) and tokens.issuperset(read) and kinds <= {"bool", "int32"}


def _kernel(file: File, op: Op, dtype: np.dtype) -> Iterator[str]:
    if op.name not in CHANNEL_AXIS:
        return
    image, kernel = (file.tensors[index] for index in op.inputs[:2])
    axis = CHANNEL_AXIS[op.name]
    if kernel.data is None:
        yield "its kernel is not stored in the file"
        return
    if kernel.dtype == np.int8 and kernel.data.min() < -127:
        yield "its kernel holds -128; kernels are in [-127, 127]"
    if kernel.zero_point.any():
        yield "its kernel has a zero point other than 0"
    if kernel.scale.size > 1 and (kernel.axis, kernel.scale.size) != (axis, kernel.shape[axis]):
        yield f"its kernel has {kernel.scale.size} scales on axis {kernel.axis}, expected axis {axis}"
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        yield from _bias(file.tensors[op.inputs[2]], image, kernel)
    elif dtype == np.int16:
        yield "it has no bias; kernels of int16 then add up in 32 bits"


def _bias(bias: Tensor, image: Tensor, kernel: Tensor) -> Iterator[str]:
    dtype = np.dtype(np.int64 if image.dtype == np.int16 else np.int32)
    if bias.dtype != dtype:
        yield f"its bias is {bias.dtype}, not {dtype}"
    if bias.zero_point.any():
        yield "its bias has a zero point other than 0"
    if image.scale.size == 1 and bias.is_quantized:
        expected = image.scale.astype(np.float64) * kernel.scale
        if bias.scale.shape != expected.shape or not np.allclose(
            bias.scale, expected, rtol=BIAS_SCALE_TOLERANCE, atol=0
        ):
            yield "the scale of its bias is not input scale * kernel scale"


def _grids(file: File, op: Op, dtype: np.dtype) -> Iterator[str]:
    output = file.tensors[op.outputs[0]]
    if op.name in FIXED_GRID and output.is_quantized:
        scale, zero_point = FIXED_GRID[op.name]
        if _grid(output) != (np.float32(scale), zero_point):
            yield f"its output grid is {_grid(output)}; the kernels take ({scale}, {zero_point}) only"
    if op.name in SAME_GRID:
        data = [file.tensors[index] for index in (*op.inputs, *op.outputs) if index >= 0]
        grids = {_grid(tensor) for tensor in data if tensor.dtype == dtype and tensor.is_quantized}
        if len(grids) > 1:
            yield f"its inputs and outputs lie on different grids: {sorted(grids)}"


def _grid(tensor: Tensor) -> tuple[float, int]:
    return float(tensor.scale[0]), int(tensor.zero_point[0])
