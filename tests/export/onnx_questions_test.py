"""ONNX questions: what is asked of tokens is asked in the file, and hides what the network hides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import calibrate, freeze, make_plan, quantize, simulate
from jaxmini.evaluate.onnx_runtime import onnx_integers, onnx_predict
from jaxmini.export import onnx_file
from jaxmini.export.distance import compare
from jaxmini.model import from_linen
from tests.compress.quantize.quantize_nets import disturbed
from tests.compress.quantize.token_nets import NETS, WORDS, sentences
from tests.export.onnx_graphs import model_that
from tests.export.onnx_groups import deviations

TOKENS = np.asarray(sentences())
LENGTH = TOKENS.shape[1]
TABLE = np.random.default_rng(0).normal(size=(WORDS, LENGTH)).astype(np.float32)
VARIABLES = {"params": {"table": TABLE}}
BEFORE = np.tril(np.ones((LENGTH, LENGTH), bool))[None]

QUESTIONS = {
    "eq": lambda t: (t == 3)[:, None, :],
    "ne": lambda t: (t != 0)[:, None, :],
    "lt": lambda t: (t < 5)[:, :, None],
    "le": lambda t: (t <= 5)[:, :, None],
    "gt": lambda t: (t > 5)[:, None, :],
    "ge": lambda t: (t >= 5)[:, None, :],
    "and": lambda t: (t > 0)[:, :, None] & (t > 0)[:, None, :] & BEFORE,
    "or": lambda t: (t == 3)[:, None, :] | BEFORE,
    "xor": lambda t: (t > 3)[:, None, :] ^ (t > 6)[:, :, None],
    "turned": lambda t: ((t > 3)[:, :, None] & (t != 5)[:, None, :]).transpose(0, 2, 1),
    "joined": lambda t: jnp.concatenate([np.ones((len(t), 1), bool), t[:, 1:] > 0], 1)[:, None, :],
    "same": lambda t: t[:, :, None] == t[:, None, :],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_asked_as_the_model_asks_it(name: str):
    def function(params: dict, tokens: jax.Array) -> jax.Array:
        scores = jnp.take(params["table"], tokens, axis=0)
        return jnp.where(QUESTIONS[name](tokens), scores, -1e9)

    plan = make_plan(model_that(function), VARIABLES, TOKENS)
    expected = np.asarray(function(VARIABLES["params"], TOKENS))
    for open_batch in (True, False):
        content, _ = onnx_file(plan, VARIABLES, open_batch=open_batch)
        found = onnx_predict(content)(TOKENS)
        np.testing.assert_array_equal(found < -1e4, expected < -1e4)
        np.testing.assert_array_equal(found[expected >= -1e4], expected[expected >= -1e4])


@pytest.mark.parametrize("name", NETS)
def test_a_masked_net_answers_as_the_network(name: str):
    model = from_linen(NETS[name])
    variables = disturbed(jax.jit(model.init)(jax.random.key(0), TOKENS[:1]))
    content, _ = onnx_file(make_plan(model, variables, TOKENS), variables)
    expected = np.asarray(jax.jit(model.apply)(variables, TOKENS)[0])
    np.testing.assert_allclose(onnx_predict(content)(TOKENS), expected, rtol=1e-4, atol=1e-4)
    twin = quantize(model)
    calibrated = calibrate(twin, variables, [TOKENS])
    plan = make_plan(twin, calibrated, TOKENS)
    frozen = freeze(plan, calibrated)
    content, compared = onnx_file(plan, frozen)
    assert compared.constant_integers >= 2 * 2
    simulated = np.asarray(simulate(plan, frozen, TOKENS))
    for optimized in (True, False):
        found = onnx_integers(content, optimized=optimized)(TOKENS)
        assert compare(simulated.reshape(-1, 4), found.reshape(-1, 4)).largest <= 2
    for group, steps in deviations(plan, frozen, TOKENS):
        assert steps.max() <= 1, group.name
