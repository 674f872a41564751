"""Small plans as ONNX graphs, run by ONNX Runtime as they stand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from jaxmini.compress.quantize import Plan, make_plan
from jaxmini.compress.quantize.plan import Group, Weighted
from jaxmini.export.onnx_graph import Graph
from jaxmini.export.onnx_layout import Tensor, Writer
from jaxmini.model import Model


def planned(function: Callable, shape: tuple[int, ...], **params: np.ndarray) -> Plan:
    """The plan of ``function(params, x)``."""
    model = Model(
        init=lambda key, inputs: {},
        apply=lambda variables, inputs, **_: (function(variables["params"], inputs), {}),
    )
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
