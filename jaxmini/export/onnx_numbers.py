"""ONNX numbers: how those of a plan stand in a file, as floats or as integers between Q and DQ nodes.

QuantizeLinear and DequantizeLinear carry our grids, so that a runtime may compute in integers what stands
between them, and a reader that does not computes the same network in floats.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np

from jaxmini.compress.quantize.evaluate import LEAST, Float
from jaxmini.compress.quantize.frozen import Frozen, operand_name
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.plan import INPUT, Group, Plan, Weighted
from jaxmini.compress.quantize.subgraph import Subgraph
from jaxmini.data.views import Normalization
from jaxmini.export.onnx_graph import Graph
from jaxmini.model import Variables

Arrange = Callable[[np.ndarray], np.ndarray]

# A file's activations are uint8, q + 128: runtimes know uint8 activations beside int8 kernels best, and the
# pixels 0..255 are then the integers of the network's input themselves.
OFFSET = 128


class Numbers(Protocol):
    """What a variant decides; every tensor is named as the graph names it."""

    def pixels(self, graph: Graph, image: str) -> str:
        """The network's input of uint8 pixels."""

    def activation(self, graph: Graph, site: str, values: str) -> str:
        """The values put on the grid of ``site``."""

    def weight(self, graph: Graph, group: Weighted, arrange: Arrange, axis: int) -> tuple[str, str]:
        """The kernel, arranged from [..., O] to have its channels on ``axis``, and the bias [O]."""

    def constant(self, graph: Graph, group: Group, position: int, arrange: Arrange) -> str:
        """The operand at ``position`` of ``group.inputs``, as ``arrange`` puts it.

        What a mask adds is its second.
        """

    def chosen(self, graph: Graph, group: Group, position: int, values: str) -> str:
        """Values that were chosen among those of a constant operand, put on its grid."""

    def held(self, group: Subgraph) -> list[np.ndarray]:
        """What a subgraph reads of the variables, float32, in the order of ``group.held``."""


class Floats:
    """Float32 throughout, every affine chain folded into its kernel.

    Args:
        plan: of the float model.
        variables: its variables.
        normalization: of pixels; None where the model's own input goes in.
    """

    def __init__(
        self, plan: Plan, variables: Variables, normalization: Normalization | None
    ) -> None:
        # One compiled program: run one by one, hundreds of small operations would be compiled each.
        folded = jax.jit(functools.partial(_folded, plan))(variables)
        self._weights, constants, self._held = jax.device_get(folded)
        masks = (group for group in plan.groups if isinstance(group, Mask))
        added = {operand_name(m, 1): np.where(m.steps() < 0, LEAST, np.float32(0)) for m in masks}
        self._constants = constants | added
        self._normalization = normalization

    def pixels(self, graph: Graph, image: str) -> str:
        from onnx import TensorProto

        if self._normalization is None:
            return image
        mean = np.float32(self._normalization.zero_point + OFFSET)
        scale = np.float32(self._normalization.scale)
        levels = graph.node("Cast", image, to=TensorProto.FLOAT)
        levels = graph.node("Sub", levels, graph.array("mean", mean))
        return graph.node("Mul", levels, graph.array("scale", scale))

    def activation(self, graph: Graph, site: str, values: str) -> str:
        return values

    def weight(self, graph: Graph, group: Weighted, arrange: Arrange, axis: int) -> tuple[str, str]:
        kernel, bias = self._weights[group.name]
        return graph.array("kernel", arrange(kernel)), graph.array("bias", bias)

    def constant(self, graph: Graph, group: Group, position: int, arrange: Arrange) -> str:
        return graph.array("constant", arrange(self._constants[operand_name(group, position)]))

    def chosen(self, graph: Graph, group: Group, position: int, values: str) -> str:
        return values

    def held(self, group: Subgraph) -> list[np.ndarray]:
        return self._held[group.name]


class Integers:
    """The frozen integers: uint8 activations, int8 kernels and int32 biases, each followed by its DQ."""

    def __init__(self, frozen: Frozen) -> None:
        self._frozen = frozen

    def pixels(self, graph: Graph, image: str) -> str:
        return graph.node("DequantizeLinear", image, *_stored(graph, self._frozen.grids[INPUT]))

    def activation(self, graph: Graph, site: str, values: str) -> str:
        return _rounded(graph, values, self._frozen.grids[site])

    def weight(self, graph: Graph, group: Weighted, arrange: Arrange, axis: int) -> tuple[str, str]:
        frozen = self._frozen.kernels[group.name]
        steps = (frozen.scale, frozen.input_scale * frozen.scale)
        arrays = (("kernel", arrange(frozen.kernel), axis), ("bias", frozen.bias, 0))
        kernel, bias = (
            graph.node(
                "DequantizeLinear",
                graph.array(name, values),
                graph.array(f"{name}_scale", scale.astype(np.float32)),
                graph.array(f"{name}_zero_point", np.zeros(scale.shape, values.dtype)),
                axis=axis,
            )
            for (name, values, axis), scale in zip(arrays, steps, strict=True)
        )
        return kernel, bias

    def constant(self, graph: Graph, group: Group, position: int, arrange: Arrange) -> str:
        frozen = self._frozen.constants[operand_name(group, position)]
        integers = (arrange(frozen.values).astype(np.int16) + OFFSET).astype(np.uint8)
        integers = graph.array("constant", integers)
        return graph.node("DequantizeLinear", integers, *_stored(graph, frozen.grid))

    def chosen(self, graph: Graph, group: Group, position: int, values: str) -> str:
        return _rounded(graph, values, self._frozen.constants[operand_name(group, position)].grid)

    def held(self, group: Subgraph) -> list[np.ndarray]:
        return self._frozen.held(group)


def _rounded(graph: Graph, values: str, grid: Grid) -> str:
    ends = _stored(graph, grid)
    return graph.node("DequantizeLinear", graph.node("QuantizeLinear", values, *ends), *ends)


def _stored(graph: Graph, grid: Grid) -> tuple[str, str]:
    scale, zero_point = np.float32(grid.scale), np.uint8(grid.zero_point + OFFSET)
    return graph.array("scale", scale), graph.array("zero_point", zero_point)


def _folded(plan: Plan, variables: Variables) -> tuple[dict, dict, dict]:
    """By name: kernel and bias of the groups that have them; constants of others; what subgraphs hold."""
    floats = Float(plan, variables)
    weights = {group.name: floats.weight(group) for group in plan.weighted}
    constants = {
        operand_name(group, position): floats.constant(group, position)
        for group in plan.groups
        for position, value in enumerate(group.inputs)
        if plan.is_constant(value)
    }
    held = {group.name: floats.held(group) for group in plan.groups if isinstance(group, Subgraph)}
    return weights, constants, held
