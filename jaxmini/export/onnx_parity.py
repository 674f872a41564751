"""ONNX parity: an int8 file is read back, and every number it stores is compared with the frozen network.

Nodes are found by their names, which start with those of the plan's groups.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmini.compress.quantize.frozen import Frozen, operand_name
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import INPUT, Group, Plan, Weighted
from jaxmini.compress.quantize.questions import Question
from jaxmini.compress.quantize.subgraph import Subgraph
from jaxmini.export.onnx_numbers import OFFSET
from jaxmini.export.parity import Parity, ParityError

PRODUCTS = ("Conv", "Gemm", "MatMul")


def check(model: Any, plan: Plan, frozen: Frozen) -> Parity:
    """Check that a model stores exactly the numbers of the frozen tree, each in its place.

    Args:
        model: an int8 file's ``ModelProto``.
        plan: it was written from; constants are compared where they do not depend on its batch.
        frozen: the integers and grids it was written from.

    Raises:
        ParityError: a scale, zero point or integer differs, or is missing; lists all differences.
    """
    comparison = _Comparison(model, plan, frozen)
    if differences := list(comparison.differences()):
        lines = "\n".join(f"  {line}" for line in differences)
        raise ParityError(f"the file is not the frozen network:\n{lines}")
    return Parity(**comparison.compared)


class _Comparison:
    """``differences`` walks every number once; ``compared`` counts them, by field of ``Parity``."""

    def __init__(self, model: Any, plan: Plan, frozen: Frozen) -> None:
        from onnx import numpy_helper

        self.plan, self.frozen = plan, frozen
        self.stored = {a.name: numpy_helper.to_array(a) for a in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.nodes = list(model.graph.node)
        self.compared = {field.name: 0 for field in dataclasses.fields(Parity)}

    def differences(self) -> Iterator[str]:
        if not self.plan.reads_tokens:
            pixels = self.grid_of(next(n for n in self.nodes if n.op_type == "DequantizeLinear"))
            yield from self.equal("input", "grids", pixels, _pair(self.frozen.grids[INPUT]))
        for group in self.plan.groups:
            if isinstance(group, Question):  # it stores no number of the network
                continue
            nodes = [node for node in self.nodes if node.name.startswith(f"{group.name}/")]
            self.compared["groups"] += 1
            yield from self.grids(group, [n for n in nodes if n.op_type == "QuantizeLinear"])
            if isinstance(group, Weighted):
                yield from self.product(group, [n for n in nodes if n.op_type in PRODUCTS])
            else:
                yield from self.constants(group, nodes)
            if isinstance(group, Subgraph):
                yield from self.held(group, nodes)

    def grids(self, group: Group, rounded: list[Any]) -> Iterator[str]:
        """The last rounding is the group's; before it, operands may have been moved on their own grid."""
        sites = {self.plan.site_of[v] for v in group.inputs if not self.plan.is_constant(v)}
        own = _pair(self.frozen.grids[group.site])
        grids = self.frozen.grids  # tokens lie on none
        allowed = {own} | {_pair(grids[site]) for site in sites if site in grids}
        if isinstance(group, Mask):  # what a question chooses is rounded on its own
            allowed.add(_pair(self.frozen.constants[operand_name(group, 1)].grid))
        if rounded:
            yield from self.equal(group.name, "grids", self.grid_of(rounded[-1]), own)
        for node in rounded[:-1]:
            if self.grid_of(node) not in allowed:
                yield f"{node.name}: (scale, zero point) is {self.grid_of(node)}, of no operand"

    def product(self, group: Weighted, products: list[Any]) -> Iterator[str]:
        if len(products) != 1:
            yield f"{group.name}: {len(products)} products, frozen 1"
            return
        frozen, node = self.frozen.kernels[group.name], products[0]
        reader = node if len(node.input) > 2 else self.reader(node)  # of the bias
        kernel, scale = self.dequantized(node.input[1])
        bias, steps = self.dequantized(reader.input[-1])
        if node.op_type == "Conv":  # OIHW -> HWIO
            kernel = kernel.transpose(*range(2, kernel.ndim), 1, 0)
        where = group.name
        yield from self.numbers(f"{where} kernel", "kernel_integers", kernel, frozen.kernel)
        yield from self.numbers(f"{where} kernel scale", "kernel_scales", scale, frozen.scale)
        yield from self.numbers(f"{where} bias", "bias_integers", bias, frozen.bias)
        expected = (frozen.input_scale * frozen.scale).astype(np.float32)
        if not np.array_equal(steps, expected):
            yield f"{where} bias scale: it is not input scale * kernel scale"

    def constants(self, group: Group, nodes: list[Any]) -> Iterator[str]:
        """Whichever way their axes are turned, the integers are those of the constants, on their grids."""
        held = [
            (np.sort(self.stored[node.input[0]].ravel()), self.grid_of(node))
            for node in nodes
            if node.op_type == "DequantizeLinear" and node.input[0] in self.stored
        ]
        positions = [p for p, value in enumerate(group.inputs) if self.plan.is_constant(value)]
        for position in [*positions, *([1] if isinstance(group, Mask) else [])]:
            frozen = self.frozen.constants[operand_name(group, position)]
            integers = np.sort(frozen.values.ravel().astype(np.int16) + OFFSET)
            self.compared["constant_integers"] += integers.size
            # Where the batch is open one of its equal rows is stored; sorted, they stand side by side.
            row = integers[:: frozen.values.shape[0]] if frozen.values.ndim else integers
            if not any(
                _pair(frozen.grid) == grid
                and (_repeats(stored, integers) or np.array_equal(stored, row))
                for stored, grid in held
            ):
                yield f"{group.name}: constant operand {position} of it is not in the file"

    def held(self, group: Subgraph, nodes: list[Any]) -> Iterator[str]:
        """Whichever way their axes are turned, what a subgraph holds of the variables is among its floats."""
        read = {name for node in nodes for name in node.input if name in self.stored}
        floats = [np.sort(self.stored[name].ravel()) for name in read]
        for position, values in enumerate(self.frozen.held(group)):
            self.compared["island_floats"] += values.size
            if not any(np.array_equal(stored, np.sort(values.ravel())) for stored in floats):
                yield f"{group.name}: what it holds, number {position}, is not in the file"

    def reader(self, node: Any) -> Any:
        return next(n for n in self.nodes if node.output[0] in n.input)

    def dequantized(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Integers and scales that a DQ node reads; its zero points are 0."""
        integers, scale, zero_point = (self.stored[i] for i in self.producers[name].input)
        if zero_point.any():
            raise ParityError(f"{name}: a kernel or bias has a zero point other than 0")
        return integers, scale

    def grid_of(self, node: Any) -> tuple[float, int]:
        scale, zero_point = (self.stored[name] for name in node.input[1:])
        return float(scale), int(zero_point)

    def equal(self, where: str, counter: str, stored: Any, frozen: Any) -> Iterator[str]:
        self.compared[counter] += 1
        if stored != frozen:
            yield f"{where}: (scale, zero point) is {stored}, frozen {frozen}"

    def numbers(
        self, where: str, counter: str, stored: np.ndarray, frozen: np.ndarray
    ) -> Iterator[str]:
        self.compared[counter] += frozen.size
        stored, frozen = stored.ravel(), frozen.ravel()
        if stored.dtype != frozen.dtype or not np.array_equal(stored, frozen):
            yield f"{where}: {stored.size} numbers {stored.dtype}, not the {frozen.size} that are frozen"


def _pair(grid: Grid) -> tuple[float, int]:
    return float(np.float32(grid.scale)), int(grid.zero_point) + OFFSET


def _repeats(stored: np.ndarray, integers: np.ndarray) -> bool:
    """Whether sorted integers are others, each as often: a constant is frozen once for all examples."""
    times, rest = divmod(stored.size, integers.size)
    return not rest and np.array_equal(stored, np.repeat(integers, times))
