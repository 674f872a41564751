"""Small plans as ONNX graphs, run by ONNX Runtime as they stand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from jaxmini.compress.quantize import Plan, float_island, int8, make_plan, quantize
from jaxmini.compress.quantize.plan import Group, Weighted
from jaxmini.compress.quantize.subgraph import Subgraph
from jaxmini.export.onnx_graph import Graph
from jaxmini.export.onnx_layout import Tensor, Writer
from jaxmini.export.onnx_numbers import Numbers
from jaxmini.export.onnx_ops import translate
from jaxmini.model import Model


def model_that(function: Callable) -> Model:
    """The model that is ``function(params, x)``."""
    return Model(
        init=lambda key, inputs: {},
        apply=lambda variables, inputs, **_: (function(variables["params"], inputs), {}),
    )


def planned(function: Callable, shape: tuple[int, ...], **params: np.ndarray) -> Plan:
    """The plan of ``function(params, x)``."""
    spec = jax.ShapeDtypeStruct(shape, jnp.float32)
    return make_plan(model_that(function), {"params": params}, spec)


def inland(function: Callable, shape: tuple[int, ...], **params: np.ndarray) -> Plan:
    """The plan of ``function(params, x)`` as the module ``Net/inner``, which stays in float.

    Args:
        function: of x with channels last.
        shape: of what goes in, channels first: in the file the function reads another order than JAX's.
    """

    def net(params: dict[str, np.ndarray], x: jax.Array) -> jax.Array:
        with jax.named_scope("Net"):
            pixels = jnp.moveaxis(x, 1, -1)
            with jax.named_scope("inner"):
                return function(params, pixels)

    model = quantize(model_that(net), int8(rules=(float_island("Net/inner"),)))
    return make_plan(model, {"params": params}, jax.ShapeDtypeStruct(shape, jnp.float32))


class Plain:
    """Numbers as they are; the input is float already. Constants are given by group and position."""

    def __init__(self, constants: dict[tuple[str, int], np.ndarray] | None = None) -> None:
        self.constants = constants or {}

    def pixels(self, graph: Graph, image: str) -> str:
        return image

    def activation(self, graph: Graph, site: str, values: str) -> str:
        return values

    def weight(
        self, graph: Graph, group: Weighted, arrange: Callable, axis: int
    ) -> tuple[str, str]:
        raise NotImplementedError("no weights here")

    def constant(self, graph: Graph, group: Group, position: int, arrange: Callable) -> str:
        return graph.array("constant", arrange(self.constants[group.name, position]))

    def held(self, group: Subgraph) -> list[np.ndarray]:
        return []


def model_of(graph: Graph, name: str, before: tuple, after: tuple) -> Any:
    """The checked model whose output is the tensor of that name."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, before)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, after)
    return graph.model(image, logits, name, {})


def answers(writer: Writer, result: Tensor, x: np.ndarray, after: tuple) -> np.ndarray:
    """What the graph computes of ``x``, in the order of JAX's axes."""
    name = writer.in_jax_order(result).name
    if name == "image":
        name = writer.graph.node("Identity", name)
    before = ("n", *x.shape[1:]) if writer.open_batch else x.shape
    after = ("n", *after[1:]) if writer.open_batch else after
    return run(model_of(writer.graph, name, before, after), x)


def translated(plan: Plan, numbers: Numbers, x: np.ndarray, *, open_batch: bool) -> np.ndarray:
    """What the graph of a plan computes of ``x``."""
    writer, values = translate(plan, numbers, "image", open_batch=open_batch)
    return answers(writer, values[plan.output], x, plan.program.shape(plan.output))


def in_pairs(function: Callable, x: np.ndarray) -> np.ndarray:
    """What JAX computes of ``x``, two examples at a time, as plans for an open batch have them."""
    compiled = jax.jit(function)
    return np.concatenate([compiled(x[start : start + 2]) for start in range(0, len(x), 2)])


def run(model: Any, x: np.ndarray) -> np.ndarray:
    """What a model of one output answers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"image": x})
    return found
