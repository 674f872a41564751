"""Replay: the operators of an integer file computed again, each from the integers that the file itself read.

What one operator rounds differently does not reach the next: a deviation is found where it starts.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp

from jaxmini.compress.quantize.frozen import Frozen, operand_name
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import Group, Plan
from jaxmini.compress.quantize.products import Product, as_planned, as_written
from jaxmini.compress.quantize.program import Value
from jaxmini.compress.quantize.questions import Question
from jaxmini.compress.quantize.simulation import centred, simulate_group, uncentred
from jaxmini.export import edges
from jaxmini.export.correspondence import COMPUTING, correspond
from jaxmini.export.flatbuffer import File
from jaxmini.export.fused import unfused
from jaxmini.export.islands import collapsed
from jaxmini.state import Array


class Replay:
    """A file's integer tensors, by index -> what the plan expects in those that operators write.

    Args:
        file: of integers, from its first integer tensor to its last (``edges.core``).
        plan: of the file's batch.
        frozen: the integers and grids the file was exported from.
        only: the groups that are computed; of the others what the file has is taken for right. Tensors that
            numbers were moved to are expected in any case.

    Attributes:
        pairs: every group that computes, and its operator; None where the file has none.
        tensors: the indices of those it is called with, all integers that a run of the file reads or leaves.
    """

    def __init__(self, file: File, plan: Plan, frozen: Frozen, only: type[Group] = Group) -> None:
        self.file, self.plan, self.frozen, self.only = file, plan, frozen, only
        found = correspond(file, plan, frozen)
        self.pairs, self.operands, self.rectified = found.pairs, found.operands, found.rectified
        self.tensors = _integers(file)
        self.asked = {v for g in plan.groups if isinstance(g, Question) for v in g.outputs}
        ops = unfused(collapsed(file), COMPUTING).ops
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
                if not self.fits(group.outputs[0], op.outputs[0], tensors):
                    continue
                if isinstance(group, self.only):
                    written = as_written(self.plan, group, self.result(group, inputs))
                    expected[op.outputs[0]] = self.integers(written, group.outputs[0])
                found = as_planned(self.plan, group, tensors[op.outputs[0]])
                self.keep(values, group.outputs[0], found)
        if self.plan.output in values:
            self.expect_moved(self.plan.output, self.file.outputs[0], values, tensors, expected)
        return expected

    def result(self, group: Group, values: Mapping[Value, Array]) -> Array:
        """What the operator of a group leaves, after a rectifier that it computes too."""
        (result,) = self.group(group, values)
        if (behind := self.rectified.get(group.name)) is not None:
            (result,) = self.group(behind, {group.outputs[0]: result})
        return result

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
            if value in self.asked:
                expected[tensor] = self.added(group, values[value], tensors[tensor])
            elif self.expect_moved(value, tensor, values, tensors, expected):
                self.keep(inputs, value, tensors[tensor])
        return inputs

    def added(self, group: Mask, kept: Array, found: Array) -> Array:
        """What a mask adds, of the shape of what the file ``found``."""
        steps = jnp.asarray(self.frozen.constants[operand_name(group, 1)].values)
        return jnp.broadcast_to(steps[kept.astype(jnp.int32)], found.shape)

    def expect_moved(
        self,
        value: Value,
        tensor: int,
        values: Mapping[Value, Array],
        tensors: Mapping[int, Array],
        expected: dict[int, Array],
    ) -> bool:
        """Expect a value in a tensor that was moved there; whether the tensor has the value's size."""
        fits = self.fits(value, tensor, tensors)
        if fits and tensor in self.moved:
            expected[tensor] = self.integers(values[value], value)
        return fits

    def sources(self, group: Group) -> list[Value]:
        return [value for value in group.inputs if not self.plan.is_constant(value)]

    def fits(self, value: Value, tensor: int, tensors: Mapping[int, Array]) -> bool:
        size = math.prod(self.plan.program.shape(value))
        return tensor in tensors and tensors[tensor].size == size

    def keep(self, values: dict[Value, Array], value: Value, integers: Array) -> None:
        integers = integers.reshape(self.plan.program.shape(value))
        tokens = self.plan.reads_tokens and value == self.plan.program.input
        values[value] = integers if tokens else centred(integers, self.grid(value))

    def integers(self, centred_values: Array, value: Value) -> Array:
        return uncentred(centred_values, self.grid(value))

    def grid(self, value: Value) -> Grid:
        return self.frozen.grids[self.plan.site_of[value]]


def _integers(file: File) -> tuple[int, ...]:
    """The input, and the integer tensors that a run computes."""
    left = {index for op in file.ops for index in op.outputs}
    integers = {index for index in left if file.tensors[index].dtype.name in edges.INTEGERS}
    return tuple(sorted({*file.inputs, *integers}))
