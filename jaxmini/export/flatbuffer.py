"""A .tflite file as values: its operators, tensors, stored integers, quantization and metadata, read only.

Nothing here knows how the file was made. ``load`` and ``dump`` are the way in and out for code that edits.
"""

import dataclasses
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np

from jaxmini.export import converter, whole

IDENTIFIER = b"TFL3"

# TensorType of the schema -> numpy, for the types that a converter writes.
DTYPES = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    2: np.dtype(np.int32),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int64),
    6: np.dtype(np.bool_),
    7: np.dtype(np.int16),
    9: np.dtype(np.int8),
    10: np.dtype(np.float64),
    12: np.dtype(np.uint64),
    15: np.dtype(np.uint32),
    16: np.dtype(np.uint16),
    17: np.dtype(np.int8),
}
INT4 = 17  # two elements to a byte


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the file.

    Attributes:
        name: as the converter called it.
        shape: dimensions.
        dtype: of its elements.
        scale: float32 [1] or [channels]; empty where the tensor is not quantized.
        zero_point: int64, as many as scales.
        axis: dimension of the channels that ``scale`` counts.
        data: the stored elements in its shape; None for what is computed while the file runs.
        dynamic: the dimensions whose size is known only when the file runs; ``shape`` says 1 there.
        buffer: where the elements are stored; tensors of one buffer share them.
        bits: of a stored element; 4 where ``data`` is int8 that shares its bytes in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    data: np.ndarray | None
    dynamic: tuple[int, ...] = ()
    buffer: int = 0
    bits: int = 0

    def __post_init__(self) -> None:
        if not self.bits:
            object.__setattr__(self, "bits", 8 * self.dtype.itemsize)

    @property
    def is_quantized(self) -> bool:
        return self.scale.size > 0

    @property
    def stored_bytes(self) -> int:
        """How many bytes its elements take in the file; 0 where they are computed."""
        return 0 if self.data is None else _stored_bytes(self.data.size, self.bits)


@dataclasses.dataclass(frozen=True)
class Op:
    """One operator: its schema name (``CONV_2D``) and the indices of its tensors (-1: absent).

    ``activation`` is the rectifier fused into it: ``NONE``, ``RELU``, ``RELU6``, ...; ``calls`` are the
    subgraphs that it runs: the body of a loop, the sides of a branch.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: str = "NONE"
    calls: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class File:
    """One subgraph of a .tflite file in execution order.

    ``signatures`` are the names by which the subgraphs of the whole file are called, the first one's first;
    ``called`` are those subgraphs, by index, that its operators run, and theirs.
    """

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: dict[str, bytes]
    size: int
    signatures: tuple[str, ...] = ()
    called: Mapping[int, "File"] = dataclasses.field(default_factory=dict)

    @property
    def op_counts(self) -> dict[str, int]:
        """Operator name -> how often it occurs, in the order of first occurrence."""
        return dict(Counter(op.name for op in self.ops))

    def producer(self, tensor: int) -> Op | None:
        """The operator that computes a tensor; None for inputs and constants."""
        return next((op for op in self.ops if tensor in op.outputs), None)


def read(source: Path | str | bytes, signature: str | None = None, *, calls: bool = False) -> File:
    """The file as values.

    Args:
        source: a path, or the bytes themselves.
        signature: whose subgraph is read; None is the first one's.
        calls: read files whose operators run subgraphs, too.

    Raises:
        FileNotFoundError: it is not there; names it, and the nearest that is.
        ValueError: not a .tflite file, damaged or cut short, of several subgraphs that no signatures name
            (loops and branches are such) if ``calls`` is not asked for, without that signature, or with a
            type that is not in ``DTYPES``; names the file.
        ImportError: ai-edge-litert is not installed.
    """
    content, where = contents(source)
    model = load(content, where)
    try:
        file = _file(model, len(content), signature)
        if not (calls or _all_named(model)):
            raise ValueError(
                f"has {len(model.subgraphs)} subgraphs; what is read are files of one subgraph, and loops "
                "and branches are subgraphs of their own: unroll the loops of the model, and convert it again"
            )
    except (UnicodeDecodeError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: the .tflite file is damaged or cut short ({error})") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return file


def contents(source: Path | str | bytes) -> tuple[bytes, str]:
    """The bytes of a file given by path or as bytes, and how errors call it."""
    if isinstance(source, bytes | bytearray):
        return bytes(source), "model bytes"
    return whole.read(Path(source)), str(source)


def load(content: bytes, where: str = "model bytes") -> Any:
    """The schema's mutable ``ModelT`` of a file's bytes.

    Raises:
        ValueError: not a .tflite file, or cut short.
    """
    schema = schema_module()
    if len(content) < 8 or content[4:8] != IDENTIFIER:
        raise ValueError(
            f"{where}: not a .tflite file (its identifier is {bytes(content[4:8])!r}, not {IDENTIFIER!r})"
        )
    try:
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: the .tflite file is damaged or cut short ({error})") from error


def dump(model: Any) -> bytes:
    """The bytes of a ``ModelT``."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def schema_module() -> Any:
    """The generated schema; it comes with the interpreter."""
    converter.require("ai_edge_litert", "litert")
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def op_name(model: Any, op: Any) -> str:
    """The schema name of an operator of a ``ModelT``."""
    code = model.operatorCodes[op.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return _names(schema_module().BuiltinOperator)[number]


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """The stored elements of a tensor of a ``ModelT``, read only; None if it has none.

    Raises:
        ValueError: the stored bytes do not fill the tensor's shape, or its type is not supported.
    """
    content = _bytes(model, tensor.buffer)
    if not content:
        return None
    dtype, shape, bits = _dtype(tensor), _shape(tensor), _bits(tensor)
    size = int(np.prod(shape, dtype=np.int64))
    if len(content) != _stored_bytes(size, bits):
        raise ValueError(
            f"tensor {tensor.name.decode()!r} stores {len(content)} bytes, its shape is {dtype}{list(shape)}"
        )
    if bits == 4:
        return _halves(content)[:size].reshape(shape)
    return np.frombuffer(content, dtype).reshape(shape)


def _stored_bytes(size: int, bits: int) -> int:
    return (size * bits + 7) // 8


def _halves(content: bytes) -> np.ndarray:
    """The signed integers -8..7 of packed bytes, int8; the lower half of a byte is the first."""
    packed = np.frombuffer(content, np.uint8)
    halves = np.stack([packed << 4, packed & 0xF0], -1).view(np.int8) >> 4
    return halves.ravel()


def _named(model: Any) -> dict[str, int]:
    """The subgraphs by the signatures that name them."""
    return {s.signatureKey.decode(): s.subgraphIndex for s in model.signatureDefs or ()}


def _all_named(model: Any) -> bool:
    """Whether each subgraph is an entrance of its own; others are loops and branches, or lead nowhere."""
    count = len(model.subgraphs)
    return count == 1 or set(_named(model).values()) == set(range(count))


def _graph_index(model: Any, signature: str | None) -> int:
    """Which subgraph a signature names."""
    if signature is None:
        return 0
    named = _named(model)
    if signature not in named:
        known = ", ".join(map(repr, named)) or "none"
        raise ValueError(f"has no signature {signature!r}; there is {known}")
    return named[signature]


def _file(model: Any, size: int, signature: str | None) -> File:
    signatures = sorted(model.signatureDefs or (), key=lambda s: s.subgraphIndex)
    start = _graph_index(model, signature)
    parts: dict[int, File] = {}
    for index in _reached(model, start):
        parts[index] = part = _part(model, index, size)
        _check_indices(part)
    return dataclasses.replace(
        parts.pop(start),
        metadata={
            entry.name.decode(): _bytes(model, entry.buffer) for entry in model.metadata or ()
        },
        signatures=tuple(s.signatureKey.decode() for s in signatures),
        called=parts,
    )


def _part(model: Any, index: int, size: int) -> File:
    """One subgraph, without what belongs to the whole file."""
    graph = model.subgraphs[index]
    return File(
        tensors=tuple(_tensor(model, tensor) for tensor in graph.tensors),
        ops=tuple(_op(model, op) for op in graph.operators),
        inputs=_indices(graph.inputs),
        outputs=_indices(graph.outputs),
        metadata={},
        size=size,
    )


def _op(model: Any, op: Any) -> Op:
    name, inputs, outputs = op_name(model, op), _indices(op.inputs), _indices(op.outputs)
    return Op(name, inputs, outputs, _activation(op), _calls(op))


def _calls(op: Any) -> tuple[int, ...]:
    """The subgraphs that an operator's options name, -1 for none."""
    tables = (options for options in (op.builtinOptions, op.builtinOptions2) if options is not None)
    fields = (field for options in tables for field in vars(options).items())
    named = (np.ravel(value) for name, value in fields if "subgraph" in name.lower())
    return tuple(
        int(index) for indices in named for index in indices if index is not None and index >= 0
    )


def _reached(model: Any, start: int) -> Iterator[int]:
    """The subgraphs that are run where one is, that one first; none runs itself."""
    reached: list[int] = []

    def follow(index: int, callers: tuple[int, ...]) -> None:
        if index in callers:
            raise ValueError(f"the .tflite file is damaged (subgraph {index} runs itself)")
        if not 0 <= index < len(model.subgraphs):
            raise ValueError(
                f"the .tflite file is damaged (it names subgraph {index}; "
                f"there are {len(model.subgraphs)})"
            )
        if index in reached:
            return
        reached.append(index)
        for op in model.subgraphs[index].operators:
            for called in _calls(op):
                follow(called, (*callers, index))

    follow(start, ())
    yield from reached


def _check_indices(file: File) -> None:
    count = len(file.tensors)
    required = [*file.inputs, *file.outputs, *(index for op in file.ops for index in op.outputs)]
    optional = [index for op in file.ops for index in op.inputs]  # -1: absent
    wrong = [i for i in required if not 0 <= i < count]
    wrong += [i for i in optional if not -1 <= i < count]
    if wrong:
        raise ValueError(
            f"the .tflite file is damaged (it names tensor {wrong[0]}; there are {count})"
        )


def _names(enumeration: type) -> dict[int, str]:
    return {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}


def _activation(op: Any) -> str:
    number = getattr(op.builtinOptions, "fusedActivationFunction", 0)
    return _names(schema_module().ActivationFunctionType)[number]


def _tensor(model: Any, tensor: Any) -> Tensor:
    quantization = tensor.quantization
    scale = None if quantization is None else quantization.scale
    quantized = scale is not None and len(scale) > 0
    signature = [] if tensor.shapeSignature is None else tensor.shapeSignature
    return Tensor(
        name=tensor.name.decode(),
        shape=_shape(tensor),
        dtype=_dtype(tensor),
        scale=np.asarray(scale if quantized else [], np.float32),
        zero_point=np.asarray(quantization.zeroPoint if quantized else [], np.int64),
        axis=quantization.quantizedDimension if quantized else 0,
        data=constant(model, tensor),
        dynamic=tuple(np.flatnonzero(np.asarray(signature) < 0).tolist()),
        buffer=tensor.buffer,
        bits=_bits(tensor),
    )


def _bits(tensor: Any) -> int:
    return 4 if tensor.type == INT4 else 8 * _dtype(tensor).itemsize


def _dtype(tensor: Any) -> np.dtype:
    if tensor.type not in DTYPES:
        kind = _names(schema_module().TensorType).get(tensor.type, tensor.type)
        raise ValueError(
            f"tensor {tensor.name.decode()!r} has the type {kind}, which is not supported: convert the model "
            "without the part that computes it; real and whole numbers are read, and booleans"
        )
    return DTYPES[tensor.type]


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else _indices(tensor.shape)


def _bytes(model: Any, buffer: int) -> bytes:
    data = model.buffers[buffer].data
    return b"" if data is None else np.asarray(data, np.uint8).tobytes()


def _indices(numbers: Any) -> tuple[int, ...]:
    return () if numbers is None else tuple(int(number) for number in numbers)
