"""What a .tflite file costs: parameters, multiply-accumulates and bytes, read off the file alone.

Any file of one subgraph will do, also one that jaxmini did not write; nothing is run. Of several signatures
it is the first one's subgraph that is counted, and the bytes are those of the whole.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxmini.evaluate.interpreter import require_sizes
from jaxmini.evaluate.memory import peak_bytes
from jaxmini.export import flatbuffer
from jaxmini.export.flatbuffer import File, Op, Tensor


@dataclasses.dataclass(frozen=True)
class OpCost:
    """All operators of one name: how many, and their multiply-accumulates.

    ``macs`` is None for operators that multiply in a way that is not counted here.
    """

    name: str
    count: int
    macs: int | None


@dataclasses.dataclass(frozen=True)
class FileCost:
    """What a file costs, for one run of it.

    Attributes:
        params: numbers stored as weights: kernels, biases, other constants that are multiplied or added.
        macs: multiply-accumulates of convolutions and matrix products.
        bytes: of the file.
        weight_bytes: of ``params`` as they are stored.
        peak_bytes: of activations alive at once, see ``memory.peak_bytes``.
        ops: by name, in the order of first occurrence.
    """

    params: int
    macs: int
    bytes: int
    weight_bytes: int
    peak_bytes: int
    ops: tuple[OpCost, ...]

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Operators that multiply and are left out of ``macs``."""
        return tuple(op.name for op in self.ops if op.macs is None)


def file_cost(source: File | Path | str | bytes) -> FileCost:
    """What the file costs at the input shape it states; a batch left open counts as 1.

    Products are counted as ``cost.count_macs`` counts a net's, padding included; of a transposed convolution
    without those of the zeros between its inputs. A BatchNorm that the converter folded into its convolution
    has left one bias of its four numbers a channel.

    Raises:
        ValueError: not a .tflite file, cut short, damaged, or of sizes that are known only when it runs;
            names the file.
    """
    file, where = _read(source)
    require_sizes(file, where)
    macs: Counter[str] = Counter()
    for index, op in enumerate(file.ops):
        try:
            macs[op.name] += MACS.get(op.name, _none)(_Shapes(file, op))
        except (IndexError, ValueError, ZeroDivisionError) as error:
            raise ValueError(
                f"{where}: operator {index} {op.name} has operands of shapes that do not fit it ({error})"
            ) from error
    weights = _weights(file)
    return FileCost(
        params=sum(tensor.data.size for tensor in weights),
        macs=macs.total(),
        bytes=file.size,
        weight_bytes=sum(tensor.stored_bytes for tensor in weights),
        peak_bytes=peak_bytes(file),
        ops=tuple(
            OpCost(name, count, None if name in UNCOUNTED else macs[name])
            for name, count in file.op_counts.items()
        ),
    )


def float_ops(file: File) -> dict[str, int]:
    """How many of each operation read or give floats, constants included."""

    def is_float(op: Op) -> bool:
        tensors = (file.tensors[index] for index in (*op.inputs, *op.outputs) if index >= 0)
        return any(tensor.dtype.kind == "f" for tensor in tensors)

    return dict(Counter(op.name for op in file.ops if is_float(op)))


class _Shapes:
    """The shapes of an operator's tensors."""

    def __init__(self, file: File, op: Op) -> None:
        self._file, self._op = file, op

    def input(self, position: int) -> tuple[int, ...]:
        index = self._op.inputs[position]
        if index < 0:
            raise ValueError(f"operand {position} is absent")
        return self._file.tensors[index].shape

    @property
    def output(self) -> tuple[int, ...]:
        return self._file.tensors[self._op.outputs[0]].shape


def _convolution(shapes: _Shapes) -> int:
    _, height, width, channels = shapes.input(1)  # OHWI
    return math.prod(shapes.output) * height * width * channels


def _depthwise(shapes: _Shapes) -> int:
    _, height, width, _ = shapes.input(1)  # 1HWO
    return math.prod(shapes.output) * height * width


def _transposed(shapes: _Shapes) -> int:
    out_channels, height, width, _ = shapes.input(1)  # OHWI
    return math.prod(shapes.input(2)) * height * width * out_channels


def _dense(shapes: _Shapes) -> int:
    _, contracted = shapes.input(1)
    return math.prod(shapes.output) * contracted


def _matmul(shapes: _Shapes) -> int:
    *_, rows, columns = shapes.input(0)  # either may be the contracted one
    contracted = rows * columns // shapes.output[-2]
    return math.prod(shapes.output) * contracted


def _reshape(shapes: _Shapes) -> int:
    if math.prod(shapes.input(0)) != math.prod(shapes.output):
        raise ValueError("its output's size is known only when the file runs")
    return 0


def _none(shapes: _Shapes) -> int:
    return 0


MACS: dict[str, Callable[[_Shapes], int]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _matmul,
    "RESHAPE": _reshape,
}

# Operators that multiply, or run operators of their own.
UNCOUNTED = frozenset(
    {
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_RNN",
        "CALL",
        "CONV_3D",
        "CONV_3D_TRANSPOSE",
        "CUSTOM",
        "IF",
        "LSTM",
        "RFFT2D",
        "RNN",
        "STABLEHLO_COMPOSITE",
        "STABLEHLO_CONVOLUTION",
        "STABLEHLO_CUSTOM_CALL",
        "STABLEHLO_DOT_GENERAL",
        "STABLEHLO_WHILE",
        "SVDF",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
        "WHILE",
    }
)

# Where each operator reads its kernel and its bias.
WEIGHT_OPERANDS = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "TRANSPOSE_CONV": (1, 3),
    "FULLY_CONNECTED": (1, 2),
    "BATCH_MATMUL": (0, 1),
}


def _weights(file: File) -> list[Tensor]:
    """The stored tensors that are weights, one of those that share their numbers.

    A single number that is no kernel or bias is a setting of the computation (an epsilon, a scale).
    """
    kernels = {
        op.inputs[position]
        for op in file.ops
        for position in WEIGHT_OPERANDS.get(op.name, ())
        if position < len(op.inputs)
    }
    found = {}
    for index in sorted({index for op in file.ops for index in op.inputs if index >= 0}):
        tensor = file.tensors[index]
        if tensor.data is not None and (
            index in kernels or (tensor.data.size > 1 and _holds_reals(tensor))
        ):
            found.setdefault(tensor.buffer, tensor)
    return list(found.values())


def _holds_reals(tensor: Tensor) -> bool:
    """Whether the numbers stand for real ones; axes, shapes and indices do not."""
    return np.issubdtype(tensor.dtype, np.floating) or tensor.is_quantized


def _read(source: File | Path | str | bytes) -> tuple[File, str]:
    if isinstance(source, File):
        return source, "file"
    return flatbuffer.read(source), flatbuffer.contents(source)[1]
