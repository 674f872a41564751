"""Tables of token numbers: trained on the grid of what is read, gathered without a rounding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_checks import check, net, plan_of, refusal

from jaxmini.compress.quantize import Grid, freeze, make_plan, mse, quantize, rule, simulate
from jaxmini.compress.quantize import int8 as scheme
from jaxmini.compress.quantize.assignment import assign
from jaxmini.compress.quantize.evaluate import evaluate
from jaxmini.compress.quantize.frozen import Dequantized, operand_name
from jaxmini.export.flatbuffer import read
from jaxmini.model import from_linen

TOKENS = jax.random.randint(jax.random.key(1), (8, 5), 0, 11)


class Text(nn.Module):
    """Tokens and their places, a second table read by indexing, a dense layer, a mean, a head."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 6, name="tokens")(tokens)
        x = x + nn.Embed(5, 6, name="places")(jnp.arange(5))[None]
        x = x + self.param("table", nn.initializers.normal(0.3), (11, 6))[tokens]
        x = nn.relu(nn.Dense(8, name="hidden")(x))
        return nn.Dense(3, name="head")(x.mean(1))


TEXT = """\
plan [8, 5] -> [8, 3]: 7 groups, 7 grids
  Text/tokens:lookup                  of constant + input
  Text:add                            of Text/tokens:lookup + constant
  Text:lookup                         of constant + input
  Text:add_1                          of Text:add + Text:lookup
  Text/hidden:dense   fold add, relu  of Text:add_1
  Text:mean                           of Text/hidden:dense
  Text/head:dense     fold add        of Text:mean"""


def test_golden():
    plan = plan_of(Text(), TOKENS)
    assert str(plan) == TEXT
    assert plan.reads_tokens
    assert "input" not in plan.sites


def test_the_file_computes_it():
    _, content = check(Text(), TOKENS)
    file = read(content)
    assert file.op_counts["GATHER_ND"] == 2
    assert file.tensors[file.inputs[0]].dtype == np.int32


@pytest.fixture(scope="module")
def text():
    model, twin, variables, inputs = net(Text(), TOKENS)
    plan = make_plan(twin, variables, inputs)
    return model, twin, variables, plan, freeze(plan, variables)


def test_a_table_is_stored_on_the_grid_of_its_lookup(text):
    _, _, variables, plan, frozen = text
    lookup = plan.groups[0]
    stored = frozen.constants[operand_name(lookup, 0)]
    table = np.asarray(variables["params"]["tokens"]["embedding"])
    assert stored.values.dtype == np.int8
    assert stored.values.shape == table.shape
    assert stored.grid == frozen.grids[lookup.site]
    np.testing.assert_allclose(stored.float_values, table, atol=stored.grid.scale / 2 + 1e-6)
    assert np.ptp(stored.values.astype(int)) == 255  # the grid spans the table, seen or not


def test_frozen_floats_compute_what_integers_do(text):
    _, _, _, plan, frozen = text
    floats = jax.jit(lambda x: evaluate(plan, Dequantized(plan, frozen), x))(TOKENS)
    grid = frozen.grids[plan.output_site]
    integers = np.asarray(simulate(plan, frozen, TOKENS)).astype(int)
    steps = np.round(np.asarray(floats) / grid.scale) + grid.zero_point
    assert np.abs(steps - integers).max() <= 1


def test_training_reaches_the_rows_that_are_read(text):
    _, twin, variables, _, _ = text
    tokens = TOKENS % 7

    def loss(params):
        logits, updates = twin.apply({**variables, "params": params}, tokens, train=True)
        return jnp.square(logits).sum(), updates

    (_, updates), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    for table in (grads["tokens"]["embedding"], grads["table"]):
        assert np.all(np.any(np.asarray(table)[:7], -1))
        assert not np.any(np.asarray(table)[7:])
    assert set(updates["quant"]) == set(variables["quant"])


def test_numbers_outside_the_table_read_its_ends(text):
    _, twin, variables, plan, frozen = text
    inside = jnp.clip(2 * TOKENS - 5, 0, 10)
    for answer in (
        lambda tokens: twin.apply(variables, tokens)[0],
        lambda tokens: simulate(plan, frozen, tokens),
    ):
        np.testing.assert_array_equal(answer(2 * TOKENS - 5), answer(inside))


def test_a_rule_reaches_a_table():
    plan = assign(plan_of(Text(), TOKENS), scheme(rules=(rule("tokens", mse()),)).choices)
    assert plan.estimator("Text/tokens:lookup") == mse()


class Read(nn.Module):
    function: object

    @nn.compact
    def __call__(self, tokens):
        table = self.param("table", nn.initializers.normal(1.0), (11, 6))
        return nn.Dense(2)(self.function(table, tokens))


REFUSED = {
    "computed": (lambda table, t: table[(3 * t) % 11], "it reads at numbers that are computed"),
    "some": (lambda table, t: table[t[:, 1:]], "it reads at numbers that are computed"),
    "other_wrap": (
        lambda table, t: jnp.take(table, jnp.where(t < 0, t + 3, t), axis=0, mode="clip"),
        "look up the model's input itself",
    ),
    "columns": (lambda table, t: table[:, t % 6], "it reads other than rows of a table"),
    "one_hot": (
        lambda table, t: jax.nn.one_hot(t, 11) @ table,
        "look up numbers of tokens with nn.Embed",
    ),
    "as_numbers": (lambda table, t: t.astype(jnp.float32) @ table[:5], "nn.Embed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_uses_of_tokens_are_refused(name):
    function, message = REFUSED[name]
    assert message in refusal(Read(function), TOKENS)


def test_a_grid_of_tokens_is_refused():
    model = quantize(from_linen(Text()), input_grid=Grid(1.0, 0))
    with pytest.raises(ValueError, match="token numbers: they have no grid"):
        model.init(jax.random.key(0), TOKENS)


def test_numbers_of_another_width_are_refused():
    types = jax.ShapeDtypeStruct((8, 5), jnp.int16)
    assert "the model's input is int16" in refusal(Text(), types)
