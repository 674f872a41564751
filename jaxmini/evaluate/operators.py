"""Operators: each one of an integer file beside the integer simulation of it, fed with the file's own inputs.

What one operator rounds differently does not reach the next: a deviation is found where it starts.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.plan import Group, Plan
from jaxmini.compress.quantize.products import Product, as_planned, as_written
from jaxmini.compress.quantize.program import Value
from jaxmini.compress.quantize.simulation import centred, simulate_group, uncentred
from jaxmini.evaluate.deviation import Deviation, deviation
from jaxmini.evaluate.encoding import encoded
from jaxmini.evaluate.interpreter import Interpreter, Kernels, in_batches, known_kernels
from jaxmini.export import edges
from jaxmini.export.correspondence import COMPUTING, correspond
from jaxmini.export.flatbuffer import File
from jaxmini.export.islands import collapsed
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
    images: np.ndarray,
    *,
    kernels: Kernels | str = Kernels.XNNPACK,
) -> tuple[OperatorParity, ...]:
    """Run a file on pictures and compare every operator's output with the simulation of that operator.

    Args:
        source: path or bytes of an integer file.
        plan: of the file's batch.
        frozen: the integers and grids the file was exported from.
        images: uint8 [N, H, W, C], N >= 1; the last batch is filled up with its own images.
        kernels: which implementation of the operators runs.

    Returns:
        The operators of the integer network in the file, in its order; those that only change the type of
        its input or output are left out.

    Raises:
        TypeError: the pictures are no array.
        ValueError: not an integer file of pictures of this shape, or no pictures.
    """
    (operators,) = operator_parities(source, plan, frozen, images, kernels=(kernels,)).values()
    return operators


def operator_parities(
    source: Path | str | bytes,
    plan: Plan,
    frozen: Frozen,
    images: np.ndarray,
    *,
    kernels: Iterable[Kernels | str],
) -> dict[Kernels, tuple[OperatorParity, ...]]:
    """``operator_parity`` of several kinds of kernels, at least one; the simulation is compiled once."""
    interpreters = {
        kind: Interpreter(source, kernels=kind, keep_all=True)
        for kind in map(known_kernels, kernels)
    }
    first = next(iter(interpreters.values()))
    require_pictures("operator_parity", first, plan, images, edges.INTEGERS)
    file = edges.core(first.file)
    simulation = _Simulation(file, plan, frozen)
    expected_of = simulation if plan.is_wide else jax.jit(simulation)
    groups = {op.outputs: group.name for group, op in simulation.pairs if op is not None}

    def operators(interpreter: Interpreter) -> tuple[OperatorParity, ...]:
        found = _deviations(interpreter, _read(file), expected_of, images)
        return tuple(
            OperatorParity(index, op.name, groups.get(op.outputs), found.get(op.outputs[0]))
            for index, op in enumerate(file.ops)
        )

    return {kind: operators(interpreter) for kind, interpreter in interpreters.items()}


def _deviations(
    interpreter: Interpreter,
    read: tuple[int, ...],
    expected_of: Callable[[Mapping[int, Array]], Mapping[int, Array]],
    images: np.ndarray,
) -> dict[int, Deviation]:
    """How far the tensors of a run are from those expected of the operators that wrote them."""
    found: dict[int, Deviation] = {}
    for batch in in_batches(images, interpreter.input.shape[0]):
        interpreter.run(encoded(batch, interpreter.input.dtype))
        tensors = {index: interpreter.tensor(index) for index in read}
        for index, expected in jax.device_get(expected_of(tensors)).items():
            found[index] = found.get(index, Deviation()) + deviation(expected, tensors[index])
    return found


def first_deviating(operators: Iterable[OperatorParity]) -> OperatorParity | None:
    """The first operator of which a number differs; None if there is none."""
    return next((op for op in operators if op.deviation and op.deviation.differing), None)


class _Simulation:
    """A file's integer tensors, by index -> what the plan expects in those that operators write."""

    def __init__(self, file: File, plan: Plan, frozen: Frozen) -> None:
        self.file, self.plan, self.frozen = file, plan, frozen
        found = correspond(file, plan, frozen)
        self.pairs, self.operands = found.pairs, found.operands
        ops = collapsed(file).ops
        self.moved = {i for op in ops if op.name not in COMPUTING for i in op.outputs}

    def __call__(self, tensors: Mapping[int, Array]) -> dict[int, Array]:
        expected: dict[int, Array] = {}
        values: dict[Value, Array] = {}
        operator = {group.name: op for group, op in self.pairs}
        self.keep(values, self.plan.program.input, tensors[self.file.inputs[0]])
        for group in self.plan.groups:
            if not all(value in values for value in self.sources(group)):
                continue  # it comes after a group that the file has no operator for
            if group.name not in operator:
                values.update(zip(group.outputs, self.group(group, values), strict=True))
            elif (op := operator[group.name]) is not None:
                inputs = self.inputs(group, values, tensors, expected)
                (result,) = self.group(group, inputs)
                if self.fits(result, op.outputs[0], tensors):
                    written = as_written(self.plan, group, result)
                    expected[op.outputs[0]] = self.integers(written, group.outputs[0])
                    found = as_planned(self.plan, group, tensors[op.outputs[0]])
                    self.keep(values, group.outputs[0], found)
        if self.plan.output in values:
            self.expect_moved(self.plan.output, self.file.outputs[0], values, tensors, expected)
        return expected

    def group(self, group: Group, values: Mapping[Value, Array]) -> list[Array]:
        return simulate_group(self.plan, self.frozen, group, values)

    def inputs(
        self,
        group: Group,
        values: Mapping[Value, Array],
        tensors: Mapping[int, Array],
        expected: dict[int, Array],
    ) -> dict[Value, Array]:
        """The group's operands as the file's operator reads them.

        Where the file's tensor has another size (its padding is an operator) or other axes (those of a
        matrix product are turned), they are those of the plan.
        """
        if isinstance(group, Product):
            return dict(values)
        inputs = dict(values)
        for value, tensor in zip(self.sources(group), self.operands[group.name], strict=True):
            if self.expect_moved(value, tensor, values, tensors, expected):
                self.keep(inputs, value, tensors[tensor])
        return inputs

    def expect_moved(
        self,
        value: Value,
        tensor: int,
        values: Mapping[Value, Array],
        tensors: Mapping[int, Array],
        expected: dict[int, Array],
    ) -> bool:
        """Expect a value in a tensor that was moved there; whether the tensor has the value's size."""
        fits = self.fits(values[value], tensor, tensors)
        if fits and tensor in self.moved:
            expected[tensor] = self.integers(values[value], value)
        return fits

    def sources(self, group: Group) -> list[Value]:
        return [value for value in group.inputs if not self.plan.is_constant(value)]

    def fits(self, value: Array, tensor: int, tensors: Mapping[int, Array]) -> bool:
        return tensor in tensors and tensors[tensor].size == value.size

    def keep(self, values: dict[Value, Array], value: Value, integers: Array) -> None:
        shape = self.plan.program.shape(value)
        values[value] = centred(integers.reshape(shape), self.grid(value))

    def integers(self, centred_values: Array, value: Value) -> Array:
        return uncentred(centred_values, self.grid(value))

    def grid(self, value: Value) -> Grid:
        return self.frozen.grids[self.plan.site_of[value]]


def _read(file: File) -> tuple[int, ...]:
    """The integer tensors that a run computes."""
    indices = {*file.inputs, *(index for op in file.ops for index in op.outputs)}
    return tuple(sorted(i for i in indices if file.tensors[i].dtype.name in edges.INTEGERS))


def require_pictures(
    where: str,
    interpreter: Interpreter,
    plan: Plan,
    images: np.ndarray,
    types: tuple[str, ...] = ("int8",),
) -> None:
    """See that a file computes the plan in one of the types, and that the images are its pictures.

    Raises:
        TypeError: the images are no array.
        ValueError: it or they do not; begins with ``where``.
    """
    if not hasattr(images, "shape"):
        raise TypeError(
            f"{where}: the pictures are a {type(images).__name__}, expected one array uint8 [N, H, W, C]: "
            "write np.concatenate(batches)"
        )
    shape = tuple(plan.program.shape(plan.program.input))
    stored, file = interpreter.input, edges.core(interpreter.file)
    ends = [file.tensors[index].dtype for index in (file.inputs[0], file.outputs[0])]
    if ends[0] != ends[1] or ends[0].name not in types:
        raise ValueError(f"{where}: the file is {ends[0]} -> {ends[1]}, not int8")
    if stored.shape != shape:
        raise ValueError(f"{where}: the file takes {list(stored.shape)}, the network {list(shape)}")
    if images.dtype != np.uint8 or images.shape[1:] != shape[1:] or not len(images):
        raise ValueError(
            f"{where}: expected uint8 pictures [N, {', '.join(map(str, shape[1:]))}], N >= 1, "
            f"got {images.dtype}{list(images.shape)}"
        )
