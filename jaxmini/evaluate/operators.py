"""Operators: each one of an integer file beside the integer simulation of it, fed with the file's own inputs.

What one operator rounds differently does not reach the next: a deviation is found where it starts.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.plan import Plan
from jaxmini.evaluate.deviation import Deviation, deviation
from jaxmini.evaluate.encoding import encoded
from jaxmini.evaluate.interpreter import Interpreter, Kernels, in_batches, known_kernels
from jaxmini.export import edges
from jaxmini.export.replay import Replay
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True)
class OperatorParity:
    """One operator of a file and its deviation from the simulation.

    Attributes:
        index: its place in the file.
        name: of the operator, ``CONV_2D``.
        group: the plan's group it computes; None where it only moves numbers, or belongs to none.
        deviation: of its output; None where it cannot be compared: an operator that moves numbers is
            compared with the next one, one without a group with nothing.
    """

    index: int
    name: str
    group: str | None
    deviation: Deviation | None


def operator_parity(
    source: Path | str | bytes,
    plan: Plan,
    frozen: Frozen,
    inputs: np.ndarray,
    *,
    kernels: Kernels | str = Kernels.XNNPACK,
) -> tuple[OperatorParity, ...]:
    """Run a file on inputs and compare every operator's output with the simulation of that operator.

    Args:
        source: path or bytes of an integer file.
        plan: of the file's batch.
        frozen: the integers and grids the file was exported from.
        inputs: pictures, uint8 [N, H, W, C], or of a network that reads tokens these, int32 [N, ...];
            N >= 1. The last batch is filled up with its own.
        kernels: which implementation of the operators runs.

    Returns:
        The operators of the integer network in the file, in its order; those that only change the type of
        its input or output are left out.

    Raises:
        TypeError: the inputs are no array.
        ValueError: not an integer file of inputs of this kind and shape, or no inputs.
    """
    (operators,) = operator_parities(source, plan, frozen, inputs, kernels=(kernels,)).values()
    return operators


def operator_parities(
    source: Path | str | bytes,
    plan: Plan,
    frozen: Frozen,
    inputs: np.ndarray,
    *,
    kernels: Iterable[Kernels | str],
) -> dict[Kernels, tuple[OperatorParity, ...]]:
    """``operator_parity`` of several kinds of kernels, at least one; the simulation is compiled once."""
    interpreters = {
        kind: Interpreter(source, kernels=kind, keep_all=True)
        for kind in map(known_kernels, kernels)
    }
    first = next(iter(interpreters.values()))
    require_inputs("operator_parity", first, plan, inputs, edges.INTEGERS)
    file = edges.core(first.file)
    simulation = Replay(file, plan, frozen)
    expected_of = simulation if plan.is_wide else jax.jit(simulation)
    groups = {op.outputs: group.name for group, op in simulation.pairs if op is not None}

    def operators(interpreter: Interpreter) -> tuple[OperatorParity, ...]:
        found = _deviations(interpreter, simulation.tensors, expected_of, inputs)
        return tuple(
            OperatorParity(index, op.name, groups.get(op.outputs), found.get(op.outputs[0]))
            for index, op in enumerate(file.ops)
        )

    return {kind: operators(interpreter) for kind, interpreter in interpreters.items()}


def _deviations(
    interpreter: Interpreter,
    read: tuple[int, ...],
    expected_of: Callable[[Mapping[int, Array]], Mapping[int, Array]],
    inputs: np.ndarray,
) -> dict[int, Deviation]:
    """How far the tensors of a run are from those expected of the operators that wrote them."""
    found: dict[int, Deviation] = {}
    for batch in in_batches(inputs, interpreter.input.shape[0]):
        interpreter.run(encoded(batch, interpreter.input.dtype))
        tensors = {index: interpreter.tensor(index) for index in read}
        for index, expected in jax.device_get(expected_of(tensors)).items():
            found[index] = found.get(index, Deviation()) + deviation(expected, tensors[index])
    return found


def first_deviating(operators: Iterable[OperatorParity]) -> OperatorParity | None:
    """The first operator of which a number differs; None if there is none."""
    return next((op for op in operators if op.deviation and op.deviation.differing), None)


def require_inputs(
    where: str,
    interpreter: Interpreter,
    plan: Plan,
    inputs: np.ndarray,
    types: tuple[str, ...] = ("int8",),
) -> None:
    """See that a file computes the plan in one of the types, and that the inputs are its pictures or tokens.

    Raises:
        TypeError: the inputs are no array.
        ValueError: it or they do not; begins with ``where``.
    """
    shape = tuple(plan.program.shape(plan.program.input))
    listed = ", ".join(map(str, shape[1:]))
    kind, wanted = ("tokens", "int32") if plan.reads_tokens else ("pictures", "uint8")
    if not hasattr(inputs, "shape"):
        raise TypeError(
            f"{where}: the {kind} are a {type(inputs).__name__}, expected one array "
            f"{wanted}[N, {listed}]: write np.concatenate(batches)"
        )
    stored, file = interpreter.input, edges.core(interpreter.file)
    taken, given = (file.tensors[index].dtype.name for index in (file.inputs[0], file.outputs[0]))
    if given not in types or taken != ("int32" if plan.reads_tokens else given):
        raise ValueError(f"{where}: the file is {taken} -> {given}, not int8")
    if stored.shape != shape:
        raise ValueError(f"{where}: the file takes {list(stored.shape)}, the network {list(shape)}")
    if inputs.dtype != wanted or inputs.shape[1:] != shape[1:] or not len(inputs):
        raise ValueError(
            f"{where}: expected {wanted} {kind} [N, {listed}], N >= 1, "
            f"got {inputs.dtype}{list(inputs.shape)}"
        )
