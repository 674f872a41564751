"""Function parity: any JAX function beside any .tflite file, whoever wrote it, by the answers to same inputs.

``parity.file_parity`` says more of a file that jaxmini wrote: the stored numbers and each operator.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxmini.evaluate.accuracy import of_labelled, one_each
from jaxmini.evaluate.deviation import Deviation, deviation
from jaxmini.evaluate.encoding import as_input, dequantized, has_grid, quantized
from jaxmini.evaluate.fidelity import agreement
from jaxmini.evaluate.interpreter import (
    LITERT,
    Interpreter,
    Kernels,
    in_batches_each,
    known_kernels,
)
from jaxmini.evaluate.kernel_parity import kernel_parity
from jaxmini.evaluate.operators import OperatorParity
from jaxmini.export import flatbuffer
from jaxmini.export.flatbuffer import Tensor

BATCH = 64  # inputs at a time through the function
OPERATOR_INPUTS = 4

Function = Callable[..., jax.Array | np.ndarray]


@dataclasses.dataclass(frozen=True)
class Apart:
    """One kind of kernels' answers beside the function's, number by number.

    Attributes:
        largest, mean: of the differences, in the numbers that the function gives.
        mean_steps: of the differences in steps of the output's grid (LSB), the function's answers put onto
            it first; None for a file of float answers.
        deviation: the same as a histogram.
        agreement: share of the inputs with the same first class, 0..1; None where an answer is not a list of
            at least 2 classes.
        accuracy: share of the labelled inputs that the file answers rightly, 0..1; None without labels.
    """

    largest: float
    mean: float
    mean_steps: float | None
    deviation: Deviation | None
    agreement: float | None
    accuracy: float | None = None


@dataclasses.dataclass(frozen=True)
class FunctionParity:
    """A file beside a function that it should compute.

    Attributes:
        inputs, labelled: how many were answered, and how many of them have a label.
        accuracy: of the function itself; None without labels.
        step: the distance of two neighbours on the output's grid, which one LSB stands for; None without one.
        answers: of the file, by kernels.
        operator_inputs: with how many of the inputs operators were compared.
        base: the kernels that the others' operators are compared with.
        operators: of each other kind of kernels, every operator of integers beside that of ``base``, fed
            with what ``base`` computed before it.
    """

    inputs: int
    step: float | None
    answers: Mapping[Kernels, Apart]
    operator_inputs: int
    base: Kernels
    operators: Mapping[Kernels, tuple[OperatorParity, ...]]
    labelled: int = 0
    accuracy: float | None = None


def function_parity(
    function: Function,
    source: Path | str | bytes,
    inputs: np.ndarray | tuple[np.ndarray, ...],
    labels: np.ndarray | None = None,
    *,
    output: int | None = None,
    kernels: Iterable[Kernels | str] = LITERT,
    batch_size: int = BATCH,
    operator_inputs: int = OPERATOR_INPUTS,
) -> FunctionParity:
    """Compare a file's answers with a function's, end to end, and its kernels with one another.

    How inputs go into the file and answers come out is read off its own tensors, see ``encoding.as_input``;
    integers of the output's own type that the function gives are compared as they are. The file is run once
    in a process of its own first: a damaged one may crash the interpreter.

    Args:
        function: inputs [B, ...] -> array [B, ...]; ``functools.partial(net.apply, variables)`` of a linen
            module, or a Predict.
        source: path or bytes of any file. The first axis of what it takes and gives is the batch.
        inputs: [N, ...] as the function takes them, N >= 1: floats, uint8 pixels, or the file's own type. For
            a file of several inputs a tuple, in its order; the function is given as many arguments.
        labels: the classes that are right, integers [N], -1 where there is none; None where none has one.
        output: which of several outputs of the file it is that the function gives, counted from 0.
        kernels: which implementations of the operators are run. The operators of the others are compared
            with those of the reference kernels, or else of the first named.
        batch_size: inputs at a time through the function; the last ones are filled up with their own.
        operator_inputs: how many of the inputs operators are compared with; 0 compares none.

    Raises:
        TypeError: ``function`` cannot be called, or gives other than one array.
        ValueError: not such a file, one that the interpreter refuses or crashes on, inputs of another number,
            shape or type, no output of that number, answers of another shape or not finite, no kernels, a
            batch size below 1, labels that are not one integer an input, or such for answers that are no
            lists of classes.
    """
    kinds = _checked(function, kernels, batch_size, operator_inputs)
    where = flatbuffer.contents(source)[1]
    inputs = tuple(map(np.asarray, inputs if isinstance(inputs, tuple) else (inputs,)))
    interpreters = {kind: Interpreter(source, kernels=kind, several=True) for kind in kinds}
    taken, outputs = interpreters[kinds[0]].inputs, interpreters[kinds[0]].outputs
    output = _known_output(output, outputs, where)
    given, count = outputs[output], _require_fitting(inputs, taken, outputs[output], where)
    labels = None if labels is None else _fitting(labels, count, given, where)
    entering = tuple(
        as_input(array, into, where) for array, into in zip(inputs, taken, strict=True)
    )
    expected = _expected(function, inputs, batch_size, given, where)
    answers = {
        kind: _apart(expected, _answers(interpreter, entering, output, where), given, labels)
        for kind, interpreter in interpreters.items()
    }
    base = Kernels.REFERENCE if Kernels.REFERENCE in kinds else kinds[0]
    looked = tuple(array[:operator_inputs] for array in entering)
    operators = {
        kind: kernel_parity(source, looked, kernels=kind, base=base)
        for kind in kinds
        if kind is not base and operator_inputs
    }
    step = float(given.scale[0]) if has_grid(given) else None
    return FunctionParity(
        inputs=count,
        step=step,
        answers=answers,
        operator_inputs=len(looked[0]),
        base=base,
        operators=operators,
        labelled=0 if labels is None else int(np.count_nonzero(labels >= 0)),
        accuracy=of_labelled(expected, labels),
    )


def _checked(
    function: Function, kernels: Iterable[Kernels | str], batch_size: int, operator_inputs: int
) -> tuple[Kernels, ...]:
    """The kernels, each once, after a look at all arguments that are no arrays."""
    if not callable(function):
        raise TypeError(
            f"function_parity: expected a function of the inputs, got {type(function).__name__}; "
            "of a linen module it is functools.partial(net.apply, variables)"
        )
    kinds = tuple(dict.fromkeys(map(known_kernels, kernels)))
    if not kinds:
        raise ValueError("function_parity: no kernels are named; at least one kind is needed")
    if batch_size < 1:
        raise ValueError(f"function_parity: batch_size is {batch_size}; at least 1 is needed")
    if operator_inputs < 0:
        raise ValueError(
            f"function_parity: operator_inputs is {operator_inputs}; it must be at least 0"
        )
    return kinds


def _known_output(output: int | None, outputs: Sequence[Tensor], where: str) -> int:
    """Which output is compared; the only one where none is named."""
    if output is None and len(outputs) == 1:
        return 0
    if output not in range(len(outputs)):
        there = ", ".join(
            f"{k}: {tensor.name!r} [{_listed(tensor)}]" for k, tensor in enumerate(outputs)
        )
        asked = "which of them the function gives" if output is None else f"not output={output!r}"
        raise ValueError(
            f"{where}: has {len(outputs)} outputs, {asked}; output=... names one: {there}"
        )
    return output


def _require_fitting(
    inputs: tuple[np.ndarray, ...], taken: Sequence[Tensor], given: Tensor, where: str
) -> int:
    """How many inputs there are, seen to be of the shapes that a file takes; it maps batches to batches."""
    batches = {tensor.shape[:1] for tensor in (*taken, given)}
    if () in batches or len(batches) > 1:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in taken)
        raise ValueError(
            f"{where}: maps {shapes} to {list(given.shape)}; the first axis of all must be the batch"
        )
    fits = [array.shape[1:] for array in inputs] == [tensor.shape[1:] for tensor in taken]
    counts = {array.shape[:1] for array in inputs}
    if not fits or len(counts) > 1 or counts & {(), (0,)}:
        takes = ", ".join(f"[{_listed(tensor)}]" for tensor in taken)
        got = ", ".join(f"{array.dtype}{list(array.shape)}" for array in inputs)
        raise ValueError(f"{where}: takes {takes}, N >= 1; got {got}")
    return len(inputs[0])


def _fitting(labels: np.ndarray, count: int, given: Tensor, where: str) -> np.ndarray:
    """The labels, seen to be one class each of those that a file answers."""
    if len(given.shape) != 2:
        raise ValueError(
            f"function_parity: labels are for lists of classes, [N, C]; {where} answers [{_listed(given)}]"
        )
    return one_each("function_parity", labels, count)


def _listed(tensor: Tensor) -> str:
    return ", ".join(("N", *map(str, tensor.shape[1:])))


def _expected(
    function: Function, inputs: tuple[np.ndarray, ...], batch_size: int, given: Tensor, where: str
) -> np.ndarray:
    """The function's answers to all inputs."""
    parts, count = [], len(inputs[0])
    for batch in in_batches_each(inputs, min(batch_size, count)):
        answers = function(*batch)
        if not isinstance(answers, jax.Array | np.ndarray):
            raise TypeError(
                f"function_parity: the function gives {type(answers).__name__}, expected one array; "
                "for the first of several, lambda inputs: function(inputs)[0]"
            )
        if answers.shape != (len(batch[0]), *given.shape[1:]):
            raise ValueError(
                f"function_parity: the function gives {list(answers.shape)} for {len(batch[0])} inputs; "
                f"{where} gives [{_listed(given)}]"
            )
        parts.append(np.asarray(answers))
    return _finite(np.concatenate(parts)[:count], "function_parity: the function")


def _answers(
    interpreter: Interpreter, entering: tuple[np.ndarray, ...], output: int, where: str
) -> np.ndarray:
    """The file's answers to all inputs, of its own type."""
    batches = in_batches_each(entering, interpreter.input.shape[0])
    found = np.concatenate([interpreter.run(*batch, output=output) for batch in batches])
    return _finite(found[: len(entering[0])], where)


def _finite(answers: np.ndarray, whose: str) -> np.ndarray:
    wrong = np.flatnonzero(~np.isfinite(answers).reshape(len(answers), -1).all(1))
    if len(wrong):
        raise ValueError(f"{whose}: the answer to input {wrong[0]} is not finite")
    return answers


def _apart(
    expected: np.ndarray, found: np.ndarray, given: Tensor, labels: np.ndarray | None
) -> Apart:
    """How far a file's answers are from those expected, of its own type or of real numbers."""
    numbers = [_numbers(answers, given) for answers in (expected, found)]
    apart = np.abs(np.subtract(*numbers))
    steps = _steps(expected, found, given)
    listed = expected.ndim == 2 and expected.shape[1] > 1
    return Apart(
        largest=float(apart.max(initial=0.0)),
        mean=float(apart.mean()),
        mean_steps=float(np.abs(np.subtract(*steps, dtype=np.float64)).mean()) if steps else None,
        deviation=deviation(*steps) if steps else None,
        agreement=agreement(*numbers) if listed else None,
        accuracy=of_labelled(found, labels),
    )


def _numbers(answers: np.ndarray, given: Tensor) -> np.ndarray:
    """What answers stand for, float64."""
    on_grid = has_grid(given) and answers.dtype == given.dtype
    return (dequantized(answers, given) if on_grid else answers).astype(np.float64)


def _steps(
    expected: np.ndarray, found: np.ndarray, given: Tensor
) -> tuple[np.ndarray, np.ndarray] | None:
    """Both as integers of the output's grid; None where there are none to compare."""
    if has_grid(given) and expected.dtype != given.dtype:
        return quantized(expected, given), found
    return (expected, found) if expected.dtype.kind in "iu" and found.dtype.kind in "iu" else None
