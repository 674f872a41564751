"""ONNX numbers: integers stand in the file as they are frozen, and mean the numbers they stand for."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from jaxmini.compress.quantize import Frozen, Grid
from jaxmini.compress.quantize.frozen import FrozenConstant, FrozenKernel
from jaxmini.compress.quantize.grid import dequantized, quantized
from jaxmini.data import Normalization
from jaxmini.export.onnx_graph import Graph
from jaxmini.export.onnx_numbers import OFFSET, Floats, Integers
from tests.export.onnx_graphs import planned, run

NORMALIZATION = Normalization(0.4, 0.3)
PIXELS = Grid(np.float32(NORMALIZATION.scale), np.int32(NORMALIZATION.zero_point))
GRID = Grid(np.float32(0.25), np.int32(-100))
TABLE = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
W = np.arange(9, dtype=np.float32).reshape(3, 3) - 4
PLAN = planned(lambda p, x: x @ p["w"] * 2 + jnp.asarray(TABLE), (2, 2, 3), w=W)
DENSE, ADD = PLAN.groups
KERNEL = FrozenKernel(
    np.int8([[1, -127, 3], [4, 5, 6], [0, 0, 1]]),
    np.float32([0.5, 0.25, 2]),
    np.int32([10, -20, 2**20]),
    np.float32(0.5),
)
CONSTANT = FrozenConstant(np.int8([[[-128, 0, 127], [1, 2, 3]]]), GRID)
FROZEN = Frozen(
    {"input": PIXELS, DENSE.site: GRID, ADD.site: GRID},
    {DENSE.name: KERNEL},
    {f"{ADD.name}#1": CONSTANT},
)


def evaluated(graph: Graph, name: str, kind: int, x: np.ndarray, after: tuple) -> np.ndarray:
    image = helper.make_tensor_value_info("image", kind, x.shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, after)
    model = graph.model(image, logits, name, {})
    return run(model, x)


@pytest.mark.parametrize(
    "numbers", [Integers(FROZEN), Floats(PLAN, {"params": {"w": W}}, NORMALIZATION)]
)
def test_every_pixel_is_normalised_as_training_did(numbers: Any):
    pixels, graph = np.arange(256, dtype=np.uint8), Graph()
    found = evaluated(graph, numbers.pixels(graph, "image"), TensorProto.UINT8, pixels, (256,))
    np.testing.assert_allclose(found, NORMALIZATION(jnp.asarray(pixels)), rtol=1e-6, atol=1e-6)


def test_activations_are_put_on_their_grid_as_uint8():
    x = np.linspace(-40, 40, 401, dtype=np.float32)  # ties and numbers beyond both ends
    graph = Graph()
    name = Integers(FROZEN).activation(graph, DENSE.site, "image")
    found = evaluated(graph, name, TensorProto.FLOAT, x, x.shape)
    np.testing.assert_array_equal(found, dequantized(quantized(x, GRID), GRID))
    stored = {tuple(array.shape): array for _, array in graph._arrays}
    assert len(graph._arrays) == 2
    assert all(array.ndim == 0 for array in stored.values())
    assert sorted(str(array.dtype) for _, array in graph._arrays) == ["float32", "uint8"]
    assert {int(a) for _, a in graph._arrays if a.dtype == np.uint8} == {-100 + OFFSET}


def test_a_kernel_and_a_bias_are_stored_as_they_are_frozen():
    graph = Graph()
    kernel, bias = Integers(FROZEN).weight(graph, DENSE, lambda k: np.ascontiguousarray(k.T), 0)
    stored = dict(graph._arrays)
    np.testing.assert_array_equal(stored["kernel"], KERNEL.kernel.T)
    np.testing.assert_array_equal(stored["bias"], KERNEL.bias)
    assert (stored["kernel"].dtype, stored["bias"].dtype) == (np.int8, np.int32)
    x = np.zeros(1, np.float32)
    found = evaluated(graph, kernel, TensorProto.FLOAT, x, (3, 3))
    np.testing.assert_array_equal(found, KERNEL.float_kernel.T)
    again = Graph()
    _, bias = Integers(FROZEN).weight(again, DENSE, lambda k: k, 1)
    found = evaluated(again, bias, TensorProto.FLOAT, x, (3,))
    np.testing.assert_array_equal(found, KERNEL.float_bias)


def test_a_constant_is_arranged_and_means_its_numbers():
    graph = Graph()
    name = Integers(FROZEN).constant(
        graph, ADD, 1, lambda v: np.ascontiguousarray(v.swapaxes(1, 2))
    )
    found = evaluated(graph, name, TensorProto.FLOAT, np.zeros(1, np.float32), (1, 3, 2))
    np.testing.assert_array_equal(found, CONSTANT.float_values.swapaxes(1, 2))


def test_floats_have_every_chain_folded_and_no_grid():
    graph, floats = Graph(), Floats(PLAN, {"params": {"w": W}}, NORMALIZATION)
    assert floats.activation(graph, "anywhere", "values") == "values"
    kernel, bias = floats.weight(graph, DENSE, lambda k: k, 1)
    constant = floats.constant(graph, ADD, 1, lambda v: v)
    stored = dict(graph._arrays)
    np.testing.assert_array_equal(stored[kernel], 2 * W)
    np.testing.assert_array_equal(stored[bias], np.zeros(3))
    np.testing.assert_array_equal(
        np.broadcast_to(stored[constant], (2, 2, 3)), np.tile(TABLE, (2, 1, 1))
    )
    assert numpy_helper.from_array(stored[kernel]).data_type == TensorProto.FLOAT
