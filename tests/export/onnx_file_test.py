"""ONNX files of networks that are no artifact: of token numbers, and of what the model itself takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import make_plan, simulate
from jaxmini.evaluate.onnx_runtime import onnx_integers, onnx_latency, onnx_predict
from jaxmini.export import describe_onnx, integer_form, onnx_file, predict
from jaxmini.export.distance import compare
from tests.export.conftest import NORMALIZATION
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import FUNCTIONS, IMAGES, TOKENS, artifact_of, text


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


@pytest.mark.parametrize("integer", [True, False])
def test_numbers_outside_a_table_read_its_ends(integer: bool):
    run = onnx_predict(token_file(integer=integer))
    outside = np.where(TOKENS == 0, -5, np.where(TOKENS == 10, 99, TOKENS)).astype(np.int32)
    np.testing.assert_array_equal(run(outside), run(TOKENS))


def test_a_plan_s_own_batch_may_be_kept():
    content, expected = token_file(integer=True, open_batch=False), token_file(integer=True)
    assert describe_onnx(content)["input"]["shape"] == [24, 6]
    np.testing.assert_array_equal(
        onnx_integers(content)(TOKENS[:5]), onnx_integers(expected)(TOKENS[:5])
    )


def test_other_inputs_go_in_as_the_model_takes_them():
    artifact = artifact_of(FUNCTIONS[2](), integer=False)
    plan = make_plan(artifact.model, artifact.variables, artifact.input_spec(2))
    content, _ = onnx_file(plan, artifact.variables)
    pictures = np.asarray(NORMALIZATION(jnp.asarray(IMAGES)))
    np.testing.assert_allclose(
        onnx_predict(content)(pictures), predict(artifact)(IMAGES), rtol=1e-4, atol=1e-5
    )
    artifact = artifact_of(FUNCTIONS[2](), integer=True)
    content, _ = onnx_file(*integer_form(artifact, 2))
    source = describe_onnx(content)["input"]
    assert (source["dtype"], source["encoding"]) == ("uint8", "integer")
    assert source["scale"] == np.float32(NORMALIZATION.scale)
    assert source["zero_point"] == NORMALIZATION.zero_point + 128


def test_wrong_inputs_and_plans_are_refused():
    content = token_file(integer=True)
    with pytest.raises(ValueError, match=r"expected tokens int32 \[B, 6\], got int64\[24, 6\]"):
        onnx_predict(content)(TOKENS.astype(np.int64))
    with pytest.raises(ValueError, match=r"got int32\[24, 5\]"):
        onnx_integers(content)(TOKENS[:, :5])
    assert onnx_latency(content, warmup=0, runs=2).runs == 2
    model, variables, _, _ = text()
    with pytest.raises(ValueError, match="needs a plan for 2 examples or more, and this is for 1"):
        onnx_file(make_plan(model, variables, TOKENS[:1]), variables)
