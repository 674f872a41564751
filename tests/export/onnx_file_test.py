"""ONNX file: networks that are no artifact; what a file says of itself, and what has no form."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx as package
import pytest
from jax import lax

from jaxmini.compress.quantize import calibrate, freeze, make_plan, quantize, simulate
from jaxmini.compress.quantize.grid import quantized
from jaxmini.compress.quantize.plan import INPUT, Mean
from jaxmini.evaluate.onnx_runtime import onnx_integers, onnx_predict
from jaxmini.export import describe_onnx, integer_form, onnx_file, predict
from jaxmini.export.distance import compare
from jaxmini.export.onnx_file import BATCH_AXIS, output_of, require_forms
from jaxmini.model import from_linen
from tests.compress.quantize.quantize_nets import Functions
from tests.export.conftest import NORMALIZATION
from tests.export.onnx_graphs import planned
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import IMAGES, TOKENS, artifact_of, text


def token_file(*, integer: bool, open_batch: bool = True) -> bytes:
    model, variables, plan, frozen = text()
    if integer:
        return onnx_file(plan, frozen, open_batch=open_batch)[0]
    content, compared = onnx_file(make_plan(model, variables, TOKENS), variables)
    assert compared is None
    return content


def test_a_file_of_tokens_answers_as_the_network():
    model, variables, plan, frozen = text()
    expected = np.asarray(jax.jit(model.apply)(variables, TOKENS)[0])
    content = token_file(integer=False)
    np.testing.assert_allclose(onnx_predict(content)(TOKENS), expected, rtol=1e-4, atol=1e-5)
    assert describe_onnx(content)["input"] == {
        "name": "tokens",
        "shape": [None, 6],
        "dtype": "int32",
        "encoding": "token",
    }
    simulated = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(TOKENS))
    content = token_file(integer=True)
    for optimized in (True, False):
        found = compare(simulated, onnx_integers(content, optimized=optimized)(TOKENS))
        assert found.largest <= 1
        assert found.agreement == 1
    for group, steps in deviations(plan, frozen, TOKENS):
        assert steps.max() <= 1, group.name


def test_a_plan_s_own_batch_may_be_kept():
    content, expected = token_file(integer=True, open_batch=False), token_file(integer=True)
    assert describe_onnx(content)["input"]["shape"] == [24, 6]
    np.testing.assert_array_equal(
        onnx_integers(content)(TOKENS[:5]), onnx_integers(expected)(TOKENS[:5])
    )


def test_other_inputs_go_in_as_the_model_takes_them():
    artifact = artifact_of(Functions(), integer=False)
    plan = make_plan(artifact.model, artifact.variables, artifact.input_spec(2))
    content, _ = onnx_file(plan, artifact.variables)
    pictures = np.asarray(NORMALIZATION(jnp.asarray(IMAGES)))
    np.testing.assert_allclose(
        onnx_predict(content)(pictures), predict(artifact)(IMAGES), rtol=1e-4, atol=1e-5
    )
    content, _ = onnx_file(*integer_form(artifact_of(Functions(), integer=True), 2))
    source = describe_onnx(content)["input"]
    assert (source["dtype"], source["encoding"]) == ("uint8", "integer")
    assert source["scale"] == np.float32(NORMALIZATION.scale)
    assert source["zero_point"] == NORMALIZATION.zero_point + 128


def test_a_plan_of_one_example_cannot_leave_the_batch_open():
    model, variables, _, _ = text()
    plan = make_plan(model, variables, TOKENS[:1])
    with pytest.raises(ValueError, match="needs a plan for 2 examples or more, and this is for 1"):
        onnx_file(plan, variables)
    content, _ = onnx_file(plan, variables, open_batch=False)
    assert describe_onnx(content)["input"]["shape"] == [1, 6]


W = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
DENSE = planned(lambda p, x: jax.nn.relu(x @ p["w"]), (2, 3), w=W)
REVERSED = planned(lambda p, x: lax.rev(x @ p["w"], (0,)), (2, 3), w=W)


def test_a_small_file_says_how_it_is_read():
    content, compared = onnx_file(DENSE, {"params": {"w": W}})
    assert compared is None
    assert content == onnx_file(DENSE, {"params": {"w": W}})[0]
    assert describe_onnx(content) == {
        "input": {
            "name": "image",
            "shape": [None, 3],
            "dtype": "float32",
            "encoding": "as the model takes it",
        },
        "output": {"name": "logits", "dtype": "float32"},
        "variant": "float32",
        "backend": "onnx",
        "opset": 17,
    }
    graph = package.load_model_from_string(content).graph
    sizes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert sizes == [[BATCH_AXIS, 3], [BATCH_AXIS, 4]]
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.testing.assert_allclose(onnx_predict(content)(x), np.maximum(x @ W, 0), rtol=1e-6)


def test_logits_lie_on_the_frozen_grid():
    _, _, plan, frozen = text()
    grid = frozen.grids[plan.output_site]
    assert output_of(plan, None) == {"name": "logits", "dtype": "float32"}
    found = output_of(plan, frozen)
    assert found == describe_onnx(token_file(integer=True))["output"]
    assert (found["scale"], found["zero_point"]) == (grid.scale, grid.zero_point)


def test_forms_are_looked_for_before_there_are_numbers():
    shapes = {"params": {"w": jax.ShapeDtypeStruct(W.shape, W.dtype)}}
    require_forms(DENSE, shapes)
    for refused in (
        lambda: require_forms(REVERSED, shapes),
        lambda: onnx_file(REVERSED, {"params": {"w": W}}),
    ):
        with pytest.raises(ValueError, match=r"it reverses the batch \('rev' in the model\): .*=1"):
            refused()
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    content, _ = onnx_file(REVERSED, {"params": {"w": W}}, open_batch=False)
    np.testing.assert_allclose(onnx_predict(content)(x), (x @ W)[::-1], rtol=1e-6)


class Own(nn.Module):
    """The input joined with what is computed of it, and the larger of both; one mean written twice."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.concatenate([nn.Conv(4, (3, 3))(x), jnp.maximum(x, nn.Conv(3, (3, 3))(x))], -1)
        return nn.Dense(4)(y.mean((1, 2))) - nn.Dense(4)(y.mean((1, 2)))


def test_the_input_s_own_grid_may_be_shared():
    x = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    model = quantize(from_linen(Own()))
    variables = calibrate(model, jax.jit(model.init)(jax.random.key(1), x), [x])
    plan = make_plan(model, variables, x)
    assert list(plan.ties) == [INPUT]
    assert sum(isinstance(group, Mean) for group in plan.groups) == 1
    frozen = freeze(plan, variables)
    integers = np.asarray(quantized(x, frozen.grids[INPUT]))
    pixels = (integers.astype(np.int16) + 128).astype(np.uint8)
    for group, steps in deviations(plan, frozen, pixels):
        assert not steps.any(), group.name
    simulated = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(integers))
    content, _ = onnx_file(plan, frozen)
    for optimized in (True, False):
        assert compare(simulated, onnx_integers(content, optimized=optimized)(pixels)).largest <= 1
