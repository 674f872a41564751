"""Float kernels: what a file of integer kernels and float operators stores, beside the frozen network.

Each kernel is a stored integer tensor that one DEQUANTIZE makes floats of, for an operator of float kernels.
An operator that read the integers itself would quantize its activations as it runs (dynamic range).
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.plan import Plan, Weighted
from jaxmini.compress.quantize.program import Value
from jaxmini.compress.quantize.subgraph import FloatRun
from jaxmini.export.constraints import CHANNEL_AXIS, ConstraintError
from jaxmini.export.correspondence import kernel_of
from jaxmini.export.flatbuffer import File, Op, read
from jaxmini.export.parity import Parity, ParityError, numbers

KERNEL, BIAS = 1, 2  # which inputs of an operator they are


class Stored(NamedTuple):
    """The numbers of one layer: the kernel's integers [..., O], its scales [O], the bias [O]."""

    kernel: np.ndarray
    scale: np.ndarray
    bias: np.ndarray

    @property
    def key(self) -> tuple[bytes, ...]:
        """Equal where all numbers are equal."""
        return (
            self.kernel.astype(np.int8).tobytes(),
            self.scale.astype(np.float32).tobytes(),
            (self.bias.astype(np.float32) + 0).tobytes(),  # 0 and -0 are one
        )


def widened(file: File) -> File:
    """The file without the DEQUANTIZE of stored integers: who read the floats reads the integers."""
    sources = {op.outputs[0]: op.inputs[0] for op in file.ops if _widens(file, op)}
    ops = (
        dataclasses.replace(op, inputs=tuple(sources.get(i, i) for i in op.inputs))
        for op in file.ops
        if op.outputs[0] not in sources
    )
    return dataclasses.replace(file, ops=tuple(ops))


def layers(file: File) -> tuple[Op, ...]:
    """The operators of a widened file that have a kernel of integers, in the order they run."""
    return tuple(
        op
        for op in file.ops
        if op.name in CHANNEL_AXIS and file.tensors[op.inputs[KERNEL]].is_quantized
    )


def check(source: File | Path | str | bytes, plan: Plan, frozen: Frozen) -> Parity:
    """Check that a file stores the frozen network's kernels, scales and biases, each in its place.

    Args:
        source: a file of float operators, its path or its bytes.
        plan: of a network of which only kernels are rounded.
        frozen: the numbers it was exported from.

    Raises:
        ConstraintError: an operator computes with integers.
        ParityError: a number differs, or a kernel is missing, too many, or fed with what other kernels leave;
            lists all differences.
        ValueError: not a .tflite file.
    """
    file = source if isinstance(source, File) else read(source)
    if broken := tuple(_broken(file)):
        lines = "\n".join(f"  {line}" for line in broken)
        raise ConstraintError(f"the file does not compute in float:\n{lines}")
    compared, differences = differing(file, plan, frozen)
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise ParityError(f"the file is not the frozen network:\n{lines}")
    return compared


def differing(file: File, plan: Plan, frozen: Frozen) -> tuple[Parity, tuple[str, ...]]:
    """How many stored numbers were compared, and a line for each difference."""
    pairs, extra = correspond(file, plan, frozen)
    inner, lines = widened(file), []
    for name, op in pairs.items():
        if op is None:
            lines.append(f"{name}: no operator of the file has its kernel")
            continue
        stored, wanted = stored_of(inner, op), _frozen(frozen, name)
        for field in Stored._fields:
            lines += numbers(f"{name} {field}", getattr(stored, field), getattr(wanted, field))
    lines += [f"{op.name}: its kernel is none of the frozen network's" for op in extra]
    if not lines:
        lines += _misplaced(inner, plan, frozen)
    kernels = [frozen.kernels[name] for name in pairs]
    return Parity(
        groups=len(pairs),
        kernel_scales=sum(kernel.scale.size for kernel in kernels),
        kernel_integers=sum(kernel.kernel.size for kernel in kernels),
        bias_floats=sum(kernel.bias.size for kernel in kernels),
    ), tuple(lines)


def correspond(file: File, plan: Plan, frozen: Frozen) -> tuple[dict[str, Op | None], list[Op]]:
    """The operator of the widened file with each group's numbers, by the group's name; and those left over.

    Where none has them all, it is the first that is left with a kernel of that size, so that the difference
    can be told; None where there is none.
    """
    inner = widened(file)
    left = list(layers(inner))
    keys = {id(op): stored_of(inner, op).key for op in left}
    found: dict[str, Op | None] = dict.fromkeys(group.name for group in plan.weighted)
    for exactly in (True, False):
        for name in (name for name, op in found.items() if op is None):
            wanted = _frozen(frozen, name)
            found[name] = next(
                (op for op in left if _fits(inner, op, wanted, keys[id(op)], exactly=exactly)), None
            )
            left = [op for op in left if op is not found[name]]
    return found, left


def stored_of(file: File, op: Op) -> Stored:
    """The numbers of one operator of a widened file; a bias of zeros where it has none."""
    tensor, kernel = file.tensors[op.inputs[KERNEL]], kernel_of(file, op)
    channels = kernel.shape[-1]
    has_bias = len(op.inputs) > BIAS and op.inputs[BIAS] >= 0
    bias = file.tensors[op.inputs[BIAS]].data if has_bias else np.zeros(channels, np.float32)
    scale = np.broadcast_to(tensor.scale, channels) if tensor.scale.size == 1 else tensor.scale
    return Stored(kernel, scale, np.zeros(0, np.float32) if bias is None else bias)


def _frozen(frozen: Frozen, name: str) -> Stored:
    kernel = frozen.kernels[name]
    return Stored(kernel.kernel, kernel.scale, kernel.bias)


def _fits(file: File, op: Op, wanted: Stored, key: tuple[bytes, ...], *, exactly: bool) -> bool:
    if exactly:
        return key == wanted.key
    return file.tensors[op.inputs[KERNEL]].data.size == wanted.kernel.size


def _widens(file: File, op: Op) -> bool:
    source = file.tensors[op.inputs[0]]
    return op.name == "DEQUANTIZE" and source.data is not None and source.is_quantized


def _broken(file: File) -> Iterator[str]:
    """A line for each place where the file does other than widen its kernels and compute in float."""
    for op in file.ops:
        for index in (index for index in op.inputs if index >= 0):
            if file.tensors[index].is_quantized and not _widens(file, op):
                yield f"{op.name} reads the integers of {file.tensors[index].name!r}"
        for index in op.outputs:
            if np.issubdtype(file.tensors[index].dtype, np.integer) and (
                file.tensors[index].is_quantized
            ):
                yield f"{op.name} leaves integers, {file.tensors[index].name!r}"
    for op in widened(file).ops:
        for position, index in enumerate(op.inputs):
            kernel = op.name in CHANNEL_AXIS and position == KERNEL
            if index >= 0 and file.tensors[index].is_quantized and not kernel:
                yield f"{op.name} takes {file.tensors[index].name!r}, integers that are no kernel of it"


def _misplaced(file: File, plan: Plan, frozen: Frozen) -> Iterator[str]:
    """A line for each layer that is not fed with what the same layers leave as in the plan.

    Layers are told apart by their numbers: two of equal numbers are one and the same.
    """
    ours, ours_end = _behind_groups(plan, frozen)
    theirs, theirs_end = _behind_ops(file)
    for key, before in ours - theirs:
        name = next(n for n in frozen.kernels if _frozen(frozen, n).key == key)
        others = [n for n in frozen.kernels if _frozen(frozen, n).key in before]
        yield f"{name}: the file does not feed it with {', '.join(others) or 'the input alone'}"
    if ours_end != theirs_end:
        yield "output: the file's output does not come from the layers that the plan's comes from"


def _behind_groups(plan: Plan, frozen: Frozen) -> tuple[Counter, frozenset]:
    """Each layer of a plan with those that its input depends on; and those behind the output."""
    behind: dict[Value, frozenset] = {plan.program.input: frozenset()}
    found: Counter = Counter()
    for group in plan.groups:
        for step in group.ops if isinstance(group, FloatRun) else (group,):
            before = _joined(behind, step.inputs)
            if isinstance(group, Weighted):
                key = _frozen(frozen, group.name).key
                found[key, before] += 1
                before |= {key}
            behind |= dict.fromkeys(step.outputs, before)
    return found, behind[plan.output]


def _behind_ops(file: File) -> tuple[Counter, frozenset]:
    """The same of a widened file."""
    behind: dict[int, frozenset] = {}
    found: Counter = Counter()
    with_kernels = {id(op) for op in layers(file)}
    for op in file.ops:
        before = _joined(behind, op.inputs)
        if id(op) in with_kernels:
            key = stored_of(file, op).key
            found[key, before] += 1
            before |= {key}
        behind |= dict.fromkeys(op.outputs, before)
    return found, behind.get(file.outputs[0], frozenset())


def _joined(behind: Mapping[Value, frozenset], values: tuple[Value, ...]) -> frozenset:
    return frozenset().union(*(behind.get(value, frozenset()) for value in values))
