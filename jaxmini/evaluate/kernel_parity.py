"""Kernel parity: where two implementations of the operators part in one file, whoever wrote it.

Nothing is simulated: the same file runs twice on the same inputs. Up to the first operator that deviates
both read the same numbers, so that is where they round differently.
"""

from pathlib import Path

import numpy as np

from jaxmini.evaluate.deviation import Deviation, deviation
from jaxmini.evaluate.interpreter import Interpreter, Kernels, in_batches
from jaxmini.evaluate.operators import OperatorParity
from jaxmini.export.flatbuffer import File, Op


def kernel_parity(
    source: Path | str | bytes,
    inputs: np.ndarray,
    *,
    kernels: Kernels | str,
    base: Kernels | str = Kernels.REFERENCE,
) -> tuple[OperatorParity, ...]:
    """Run a file by two kinds of kernels and compare what every operator of integers gives.

    Args:
        source: path or bytes of a file with one input and one output.
        inputs: [N, ...] as the file takes them, N >= 1; the last batch is filled up with its own.
        kernels: those that are compared.
        base: those they are compared with.

    Returns:
        The operators in the file's order, of no group; without a deviation where all that one gives are
        floats. After the first that deviates, deviations also hold what came before.

    Raises:
        ValueError: not such a file, one that crashes the interpreter, or inputs of another shape or dtype.
    """
    first, second = (Interpreter(source, kernels=kind, keep_all=True) for kind in (base, kernels))
    _require_inputs(first, inputs)
    file, found = first.file, {}
    for batch in in_batches(inputs, first.input.shape[0]):
        first.run(batch)
        second.run(batch)
        for index in _integers(file):
            apart = deviation(first.tensor(index), second.tensor(index))
            found[index] = found.get(index, Deviation()) + apart
    return tuple(
        OperatorParity(index, op.name, None, _whole(op, found)) for index, op in enumerate(file.ops)
    )


def _integers(file: File) -> list[int]:
    """The integer tensors that operators write."""
    written = {index for op in file.ops for index in op.outputs}
    return sorted(index for index in written if file.tensors[index].dtype.kind in "iu")


def _whole(op: Op, found: dict[int, Deviation]) -> Deviation | None:
    parts = [found[index] for index in op.outputs if index in found]
    return sum(parts[1:], parts[0]) if parts else None


def _require_inputs(interpreter: Interpreter, inputs: np.ndarray) -> None:
    expected = interpreter.input
    if inputs.dtype != expected.dtype or inputs.shape[1:] != expected.shape[1:] or not len(inputs):
        raise ValueError(
            f"kernel_parity: the file takes {expected.dtype}[N, {', '.join(map(str, expected.shape[1:]))}], "
            f"N >= 1; got {inputs.dtype}{list(inputs.shape)}"
        )
