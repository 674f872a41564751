"""The groups of an int8 ONNX file one by one, each beside its simulation on the file's own numbers."""

from collections.abc import Mapping

import jax
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.plan import Group, Plan
from jaxmini.compress.quantize.program import Value
from jaxmini.compress.quantize.questions import Question
from jaxmini.compress.quantize.simulation import simulate_group
from jaxmini.export.onnx_layout import Tensor
from jaxmini.export.onnx_numbers import Integers
from jaxmini.export.onnx_ops import translate


def deviations(plan: Plan, frozen: Frozen, inputs: np.ndarray) -> list[tuple[Group, np.ndarray]]:
    """Of each group, how many steps each number of its outputs lies from the simulation's.

    The runtime runs the nodes as they stand.

    Args:
        inputs: uint8 pixels or int32 tokens, as many as the plan is for.
    """
    writer, tensors = translate(plan, Integers(frozen), "inputs", open_batch=False)
    kind = TensorProto.INT32 if plan.reads_tokens else TensorProto.UINT8
    logits = writer.in_jax_order(tensors[plan.output])
    model = writer.graph.model(
        helper.make_tensor_value_info("inputs", kind, inputs.shape),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, writer.shape(plan.output)),
        logits.name,
        {},
    )
    names = {tensor.name for tensor in tensors.values()} - {logits.name, "inputs"}
    asked = {tensors[v].name for g in plan.groups if isinstance(g, Question) for v in g.outputs}
    model.graph.output.extend(
        helper.make_tensor_value_info(
            name, TensorProto.BOOL if name in asked else TensorProto.FLOAT, None
        )
        for name in sorted(names)
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [output.name for output in session.get_outputs()]
    found = dict(zip(outputs, session.run(outputs, {"inputs": inputs}), strict=True))
    found |= {"inputs": inputs, logits.name: found["logits"]}
    values = {value: _steps(tensor, frozen, found) for value, tensor in tensors.items()}

    @jax.jit
    def simulated(values: Mapping[Value, np.ndarray]) -> list[list[jax.Array]]:
        return [simulate_group(plan, frozen, group, values) for group in plan.groups]

    def apart(group: Group, arrays: list[jax.Array]) -> np.ndarray:
        pairs = zip(group.outputs, arrays, strict=True)
        return np.concatenate(
            [np.abs(np.float32(values[v]) - np.float32(a)).ravel() for v, a in pairs]
        )

    results = simulated(values)
    return [(group, apart(group, a)) for group, a in zip(plan.groups, results, strict=True)]


def _steps(tensor: Tensor, frozen: Frozen, found: Mapping[str, np.ndarray]) -> np.ndarray:
    """What stands in the file, in JAX's order of axes and in steps from 0; tokens, yes and no as they are."""
    array = found[tensor.name].transpose(np.argsort(tensor.order))
    if array.dtype in (np.int32, np.bool_):
        return array
    return np.round(array / np.float32(frozen.grids[tensor.site].scale))
