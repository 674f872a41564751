"""ONNX products: of two tensors, or of one and a constant, over any axes."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmini.compress.quantize.products import Product
from jaxmini.evaluate.onnx_runtime import onnx_predict
from jaxmini.export import integer_form, onnx, predict
from jaxmini.export.onnx_numbers import Floats
from tests.export.onnx_graphs import Plain, in_pairs, inland, planned, translated
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import IMAGES, Products, artifact_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 4, 2, 3)).astype(np.float32)
SHAPE = (2, *X.shape[1:])

# Of x [B, 4, 2, 3] and of it reversed, or a part of it.
ACTIVATIONS = {
    "bqhd,bkhd->bqk": lambda x: x[:, ::-1],  # two axes are summed
    "bqhd,bkhd->bhqk": lambda x: x[:, ::-1],  # as attention has it: heads are an axis of both
    "bqhd,bqke->bhdke": lambda x: x[:, ::-1],  # two axes are left on either side
    "bqhd,bq->bhd": lambda x: x.max((2, 3)),  # a vector
    "bqhd,bqhd->b": lambda x: x[:, ::-1],  # nothing but the batch is left
    "bqhd,bk->bqhdk": lambda x: x.max((2, 3)),  # nothing is summed
    "bhqd,bkqd->bkhq": lambda x: x[:, :2],  # what is left stands the other way round
}


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("axes", ACTIVATIONS)
def test_a_product_of_two_activations(axes: str, open_batch: bool):
    def function(x):
        return jnp.einsum(axes, x, ACTIVATIONS[axes](x))

    plan = planned(lambda p, x: function(x), SHAPE)
    assert sum(isinstance(group, Product) for group in plan.groups) == 1
    x = X if open_batch else X[:2]
    found = translated(plan, Plain(), x, open_batch=open_batch)
    np.testing.assert_allclose(found, in_pairs(function, x), rtol=1e-5, atol=1e-5)


# Of x [B, 4, 2, 3] and a constant.
CONSTANTS = {"bhwc,ck->bhwk": (3, 5), "bhwc,hwk->bck": (4, 2, 5), "bhwc,hw->bc": (4, 2)}
# Those whose product does not begin with the batch.
TURNED = {
    "hk,bhwc->kbwc": (4, 5),  # the constant is the first
    "bhwc,hck->hbwk": (4, 3, 5),  # an axis is of both
}


def with_constant(axes: str, shape: tuple[int, ...], *, open_batch: bool) -> None:
    """See that an island computes the product of X and a constant of that shape."""
    kernel = RNG.normal(size=shape).astype(np.float32)
    first = axes.startswith("hk")

    def function(p, x):
        product = jnp.einsum(axes, *((p["w"], x) if first else (x, p["w"])))
        return product if axes in CONSTANTS else product.swapaxes(0, 1)

    x = np.moveaxis(X if open_batch else X[:2], -1, 1)
    plan = inland(function, (2, *x.shape[1:]), w=kernel)
    numbers = Floats(plan, {"params": {"w": kernel}}, None)
    found = translated(plan, numbers, x, open_batch=open_batch)
    expected = in_pairs(lambda x: function({"w": kernel}, jnp.moveaxis(x, 1, -1)), x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("axes", CONSTANTS)
def test_a_product_with_a_constant_of_an_island(axes: str, open_batch: bool):
    with_constant(axes, CONSTANTS[axes], open_batch=open_batch)


@pytest.mark.parametrize("axes", TURNED)
def test_a_product_that_moves_the_batch_needs_a_fixed_one(axes: str):
    with_constant(axes, TURNED[axes], open_batch=False)
    message = r"onnx: it moves the batch \('dot_general' in the module Net/inner.*batch=1"
    with pytest.raises(ValueError, match=message):
        with_constant(axes, TURNED[axes], open_batch=True)


def test_a_batch_that_comes_back_is_not_let_through():
    """Its numbers would be cut into matrices by the plan's own batch, whatever that of the file."""
    first, second = (RNG.normal(size=shape).astype(np.float32) for shape in ((4, 3, 5), (4, 5)))

    def function(p, x):
        rows = lax.dot_general(x, jnp.asarray(first), (((3,), (1,)), ((1,), (0,))))  # [4, B, 2, 5]
        return lax.dot_general(rows, jnp.asarray(second), (((0, 3), (0, 1)), ((), ())))

    x = np.moveaxis(X, -1, 1)
    plan = inland(function, (2, *x.shape[1:]))
    with pytest.raises(ValueError, match="it moves the batch .*'dot_general' in the module Net/"):
        translated(plan, Plain(), x, open_batch=True)
    found = translated(plan, Plain(), x[:2], open_batch=False)
    np.testing.assert_allclose(found, function({}, X[:2]), rtol=1e-5, atol=1e-5)


def test_a_batch_that_is_added_up_needs_a_fixed_one():
    weights = RNG.normal(size=(5, 2)).astype(np.float32)

    def function(p, x):
        return lax.dot_general(jnp.asarray(weights), x, (((1,), (0,)), ((), ())))

    x = np.moveaxis(X[:2], -1, 1)
    plan = inland(function, x.shape)
    with pytest.raises(ValueError, match="it adds up the batch .*'dot_general' in the module Net/"):
        translated(plan, Plain(), x, open_batch=True)
    found = translated(plan, Plain(), x, open_batch=False)
    np.testing.assert_allclose(found, function({}, X[:2]), rtol=1e-5, atol=1e-5)


def test_a_constant_that_differs_along_the_batch_needs_a_fixed_one():
    kernel = jnp.asarray(RNG.normal(size=(2, 3, 5)).astype(np.float32))

    def function(p, x):
        return jnp.einsum("bhwc,bck->bhwk", x, kernel)

    x = np.moveaxis(X[:2], -1, 1)
    plan = inland(function, x.shape)
    with pytest.raises(
        ValueError,
        match=r"onnx: its constant differs along the batch \('dot_general' in the module Net/inner.*"
        r"\): export it with a fixed batch, onnx\(..., batch=1\)",
    ):
        translated(plan, Plain(), x, open_batch=True)
    found = translated(plan, Plain(), x, open_batch=False)
    np.testing.assert_allclose(found, function({}, X[:2]), rtol=1e-5, atol=1e-5)


def test_a_net_of_products_over_any_axes(tmp_path: Path):
    artifact = artifact_of(Products(), integer=False)
    path = onnx(artifact, tmp_path / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    for answers in (onnx_predict(path)(IMAGES), onnx_predict(path, optimized=False)(IMAGES)):
        assert np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max()
    plan, frozen = integer_form(artifact_of(Products(), integer=True), 8)
    for group, steps in deviations(plan, frozen, IMAGES[:8]):
        assert steps.max() <= isinstance(group, Product), group.name  # .tflite rounds it twice
