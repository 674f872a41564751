"""Kernel parity: where two implementations of the operators part in one file, whoever wrote it.

Nothing is simulated: one implementation runs the file, the other each operator by itself, fed with the
numbers that the first had there. What one operator rounds differently does not reach the next.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxmini.evaluate.deviation import Deviation, deviation
from jaxmini.evaluate.interpreter import (
    Interpreter,
    Kernels,
    in_batches_each,
    known_kernels,
    opened,
    require_sizes,
)
from jaxmini.evaluate.operators import OperatorParity
from jaxmini.evaluate.severed import Severed, severed
from jaxmini.export.flatbuffer import Op, contents


def kernel_parity(
    source: Path | str | bytes,
    inputs: np.ndarray | tuple[np.ndarray, ...],
    *,
    kernels: Kernels | str,
    base: Kernels | str = Kernels.REFERENCE,
) -> tuple[OperatorParity, ...]:
    """Run a file by two kinds of kernels and compare what every operator of integers gives.

    Args:
        source: path or bytes of a file whose inputs' first axis is the batch.
        inputs: [N, ...] as the file takes them, N >= 1, of several inputs a tuple in the file's order; the
            last batch is filled up with its own.
        kernels: those that are compared.
        base: those they are compared with.

    Returns:
        The operators in the file's order, of no group; without a deviation where all that one gives are
        floats, or known without the inputs.

    Raises:
        ValueError: not such a file, one that crashes the interpreter, or inputs of another shape or dtype;
            names the file.
    """
    kernels = known_kernels(kernels)
    whole = Interpreter(source, kernels=base, keep_all=True, several=True)
    where, inputs = contents(source)[1], inputs if isinstance(inputs, tuple) else (inputs,)
    _require_inputs(whole, inputs, where)
    file, parts, found = whole.file, severed(source), {}
    batches = list(in_batches_each(inputs, whole.input.shape[0]))
    whole.run(*batches[0])
    _require_stated(whole, parts.fed.values(), where)
    alone = _opened(parts, kernels, where)
    compared = [index for index in parts.written if file.tensors[index].dtype.kind in "iu"]
    for batch in batches:
        whole.run(*batch)
        for index, numbers in zip(file.inputs, batch, strict=True):
            alone.set_tensor(index, numbers)
        for index, of in parts.fed.items():
            alone.set_tensor(index, whole.tensor(of))
        alone.invoke()
        for index in compared:
            apart = deviation(whole.tensor(index), alone.get_tensor(index))
            found[index] = found.get(index, Deviation()) + apart
    return tuple(
        OperatorParity(index, op.name, None, _whole(op, found)) for index, op in enumerate(file.ops)
    )


def _whole(op: Op, found: dict[int, Deviation]) -> Deviation | None:
    parts = [found[index] for index in op.outputs if index in found]
    return sum(parts[1:], parts[0]) if parts else None


def _opened(parts: Severed, kernels: Kernels, where: str) -> Any:
    try:
        return opened(parts.content, kernels, require=require_sizes)[1]
    except ValueError as error:
        raise ValueError(f"{where}: its operators do not run one by one: {error}") from error


def _require_stated(whole: Interpreter, read: Iterable[int], where: str) -> None:
    """See that what operators read has the shape that the file states, which theirs alone are run with."""
    for index in read:
        stated, found = whole.file.tensors[index], whole.tensor(index).shape
        if found != stated.shape:
            raise ValueError(
                f"{where}: the file states tensor {stated.name!r} as {list(stated.shape)}, and it is "
                f"{list(found)} when the file runs: damaged, or of a size that is known only then"
            )


def _require_inputs(whole: Interpreter, inputs: tuple[np.ndarray, ...], where: str) -> None:
    """See that there is an array for each input of the file, and that the first axis of all is the batch."""
    batches = {taken.shape[:1] for taken in whole.inputs}
    counts = {array.shape[:1] for array in inputs}
    expected = [(taken.dtype, taken.shape[1:]) for taken in whole.inputs]
    found = [(array.dtype, array.shape[1:]) for array in inputs]
    if found != expected or () in batches or len(batches) > 1 or len(counts) > 1 or (0,) in counts:
        takes = ", ".join(
            f"{taken.dtype}[N, {', '.join(map(str, taken.shape[1:]))}]" for taken in whole.inputs
        )
        got = ", ".join(f"{array.dtype}{list(array.shape)}" for array in inputs)
        raise ValueError(f"kernel_parity: {where} takes {takes}, N >= 1; got {got}")
