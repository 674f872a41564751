"""What a .tflite file costs: parameters, multiply-accumulates and bytes, read off the file alone.

Any file will do, also one that jaxmini did not write; nothing is run. Of several signatures it is the first
one's subgraph that is counted, with those that its operators run, and the bytes are those of the whole.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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

    @property
    def counted_once(self) -> tuple[str, ...]:
        """Operators that run others, who knows how often."""
        return tuple(op.name for op in self.ops if op.name in REPEATED)


def file_cost(source: File | Path | str | bytes) -> FileCost:
    """What the file costs at the input shape it states; a batch left open counts as 1.

    Products are counted as ``cost.count_macs`` counts a net's, padding included; of a transposed convolution
    without those of the zeros between its inputs. A BatchNorm that the converter folded into its convolution
    has left one bias of its four numbers a channel. What an operator runs as a subgraph counts each time;
    the body of a loop once, and all sides of a branch, for how often they run is known only then.

    Raises:
        ValueError: not a .tflite file, cut short, damaged, or of sizes that are known only when it runs;
            names the file.
    """
    file, where = _read(source)
    parts = (file, *file.called.values())
    for part in parts:
        require_sizes(part, where)
    macs, weights = _macs(file, where), _weights(parts)
    counts = sum((Counter(op.name for op in part.ops) for part in parts), Counter())
    return FileCost(
        params=sum(tensor.data.size for tensor in weights),
        macs=macs.total(),
        bytes=file.size,
        weight_bytes=sum(tensor.stored_bytes for tensor in weights),
        peak_bytes=peak_bytes(file),
        ops=tuple(
            OpCost(name, count, None if name in UNCOUNTED else macs[name])
            for name, count in counts.items()
        ),
    )


def _macs(file: File, where: str) -> Counter[str]:
    """Multiply-accumulates by the operators' names, those of the subgraphs they run with them."""

    @functools.cache
    def called(index: int) -> Counter[str]:
        return of(file.called[index])

    def of(part: File) -> Counter[str]:
        found: Counter[str] = Counter()
        for index, op in enumerate(part.ops):
            try:
                found[op.name] += MACS.get(op.name, _none)(_Shapes(part, op))
            except (IndexError, ValueError, ZeroDivisionError) as error:
                raise ValueError(
                    f"{where}: operator {index} {op.name} has operands of shapes that do not fit it ({error})"
                ) from error
            for inner in op.calls:
                found.update(called(inner))
        return found

    return of(file)


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

# Operators that run others as often as their inputs say.
REPEATED = frozenset(
    {
        "IF",
        "STABLEHLO_CASE",
        "STABLEHLO_REDUCE",
        "STABLEHLO_REDUCE_WINDOW",
        "STABLEHLO_SCATTER",
        "STABLEHLO_SORT",
        "STABLEHLO_WHILE",
        "WHILE",
    }
)

# Operators that multiply.
UNCOUNTED = frozenset(
    {
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_RNN",
        "CONV_3D",
        "CONV_3D_TRANSPOSE",
        "CUSTOM",
        "LSTM",
        "RFFT2D",
        "RNN",
        "STABLEHLO_CONVOLUTION",
        "STABLEHLO_CUSTOM_CALL",
        "STABLEHLO_DOT_GENERAL",
        "SVDF",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
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


def _weights(parts: Iterable[File]) -> list[Tensor]:
    """The stored tensors that are weights, one of those that share their numbers.

    A single number that is no kernel or bias is a setting of the computation (an epsilon, a scale).
    """
    found: dict[int, Tensor] = {}
    for tensor in (tensor for part in parts for tensor in _weights_of(part)):
        found.setdefault(tensor.buffer, tensor)
    return list(found.values())


def _weights_of(file: File) -> Iterator[Tensor]:
    kernels = {
        op.inputs[position]
        for op in file.ops
        for position in WEIGHT_OPERANDS.get(op.name, ())
        if position < len(op.inputs)
    }
    for index in sorted({index for op in file.ops for index in op.inputs if index >= 0}):
        tensor = file.tensors[index]
        if tensor.data is not None and (
            index in kernels or (tensor.data.size > 1 and _holds_reals(tensor))
        ):
            yield tensor


def _holds_reals(tensor: Tensor) -> bool:
    """Whether the numbers stand for real ones; axes, shapes and indices do not."""
    return np.issubdtype(tensor.dtype, np.floating) or tensor.is_quantized


def _read(source: File | Path | str | bytes) -> tuple[File, str]:
    if isinstance(source, File):
        return source, "file"
    return flatbuffer.read(source, calls=True), flatbuffer.contents(source)[1]
