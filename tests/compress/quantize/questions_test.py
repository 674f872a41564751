"""Questions of tokens: known however they are written, exact in every network that is made of them."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantize_checks import check, net, plan_of, refusal, run, trained
from token_nets import LENGTH, NETS, WIDTH, WORDS, Encoder, causal, sentences

from jaxmini.axis import AXIS
from jaxmini.compress.quantize import calibrate, freeze, make_plan, quantize, simulate
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.questions import Question, _formula, smallest
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.export import Layout, integer_file
from jaxmini.model import Model, from_linen

TOKENS = sentences()
TABLE = jnp.asarray(np.random.default_rng(3).normal(size=(WORDS, LENGTH)), jnp.float32)


def model_of(function):
    """Scores [B, T, T] of tokens [B, T], masked by ``function(scores, tokens)``."""

    def apply(variables, tokens, **_):
        scores = jnp.take(variables["params"]["table"], tokens, axis=0)
        return function(scores, tokens), {}

    return Model(init=lambda key, tokens: {"params": {"table": TABLE}}, apply=apply)


def plan(function, tokens=TOKENS):
    return make_plan(model_of(function), {"params": {"table": TABLE}}, tokens)


def hidden(function, tokens=TOKENS):
    """Which of the scores a function hides: in the model, and in the plan of it."""
    made = plan(function, tokens)
    variables = {"params": {"table": TABLE}}
    expected = np.asarray(function(jnp.take(TABLE, tokens, axis=0), tokens)) < -5e3
    answers = evaluate(made, Float(made, variables), tokens)
    return expected, np.asarray(answers) < -5e3


def both(tokens):
    real = tokens != 0
    return real[:, :, None] & real[:, None, :]


CAUSAL = np.tril(np.ones((LENGTH, LENGTH), bool))[None]

FORMS = {
    "where": lambda s, t: jnp.where((t != 0)[:, None, :], s, -1e9),
    "where_hidden": lambda s, t: jnp.where((t == 0)[:, None, :], -jnp.inf, s),
    "flax": lambda s, t: jnp.where(nn.make_attention_mask(t > 0, t > 0)[:, 0], s, -1e9),
    "flax_causal": lambda s, t: jnp.where(causal(t)[:, 0], s, jnp.finfo(jnp.float32).min),
    "flax_of_numbers": lambda s, t: jnp.where(
        nn.make_attention_mask((t > 0).astype(jnp.float32), (t > 0).astype(jnp.float32))[:, 0],
        s,
        -1e9,
    ),
    "added": lambda s, t: s + jnp.where((t != 0)[:, None, :], 0.0, -1e9),
    "added_before": lambda s, t: jnp.where(t[:, None, :] == 0, -1e9, 0.0) + s,
    "bert": lambda s, t: s + (1.0 - (t > 0).astype(jnp.float32))[:, None, :] * -10000.0,
    "bert_lower": lambda s, t: s + (1.0 - (t > 0).astype(jnp.float32))[:, None, :] * -1e9,
    "subtracted": lambda s, t: s - (1.0 - (t > 0).astype(jnp.float32))[:, None, :] * 1e9,
    "added_twice": lambda s, t: (
        s + (jnp.where(t != 0, 0.0, -1e9)[:, None, :] + jnp.where(CAUSAL, 0.0, -1e9))
    ),
    "integers": lambda s, t: jnp.where(
        (t > 0).astype(jnp.int32)[:, :, None] * (t > 0).astype(jnp.int32)[:, None] == 1, s, -1e9
    ),
    "or": lambda s, t: jnp.where((t == 3)[:, None, :] | CAUSAL, s, -1e9),
    "xor": lambda s, t: jnp.where((t > 3)[:, None, :] ^ (t > 6)[:, :, None], s, -1e9),
    "same_word": lambda s, t: jnp.where(t[:, :, None] == t[:, None, :], s, -1e9),
    "other_words": lambda s, t: jnp.where(t[:, :, None] != t[:, None, :], s, -1e9),
    "between": lambda s, t: jnp.where(((t >= 2) & (t <= 7) & ~(t == 4))[:, None, :], s, -1e9),
    "next": lambda s, t: jnp.where((t[:, 1:] < 5)[:, None, :], s[..., 1:], -1e9),
    "mapped": lambda s, t: jax.vmap(lambda s, t: jnp.where(t[None] != 0, s, -1e9))(s, t),
    "reshaped": lambda s, t: jnp.where((t != 0).reshape(-1, 1, LENGTH), s, -1e9),
    "joined": lambda s, t: jnp.where(
        jnp.concatenate([jnp.ones((len(t), 1), bool), t[:, 1:] != 0], 1)[:, None], s, -1e9
    ),
    "turned": lambda s, t: jnp.where(both(t).transpose(0, 2, 1), s, -1e9),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_by_tokens_is_known_however_it_is_written(form):
    expected, found = hidden(FORMS[form])
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(found, expected)


@given(st.integers(1, 3), st.data())
def test_a_formula_is_yes_in_its_cases_alone(count, data):
    cases = list(itertools.product((False, True), repeat=count))
    yes = {case for case in cases if data.draw(st.booleans())}
    if not yes:
        return
    columns = [jnp.array(column) for column in zip(*cases, strict=True)]
    found = np.asarray(_formula(yes, count)(*columns))
    np.testing.assert_array_equal(found, [case in yes for case in cases])


@given(st.lists(st.booleans(), min_size=2 * 3 * 2, max_size=2 * 3 * 2))
def test_nothing_of_an_array_is_lost_by_making_it_small(numbers):
    kept = np.reshape(numbers, (2, 3, 2))
    np.testing.assert_array_equal(np.broadcast_to(smallest(kept, range(3)), kept.shape), kept)
    assert smallest(np.ones((2, 3, 4), bool), range(2)).shape == (1, 1, 4)


def of_kind(plan, kind):
    return [group for group in plan.groups if isinstance(group, kind)]


def test_a_plan_asks_once_and_says_what():
    made = plan_of(NETS["causal"], TOKENS)
    (question,) = of_kind(made, Question)
    first, second = of_kind(made, Mask)
    assert first.inputs[1] == second.inputs[1] == question.outputs[0]
    assert made.program.shape(question.outputs[0]) == (len(TOKENS), 1, LENGTH, LENGTH)
    assert f"{question.name} {question}" == "Encoder:question asks gt gt and and"
    assert "hides by tokens" in str(made)
    assert "input" not in made.sites


def test_a_question_is_as_small_as_it_is():
    made = plan_of(NETS["keys"], TOKENS)
    (question,) = of_kind(made, Question)
    assert made.program.shape(question.outputs[0]) == (len(TOKENS), 1, 1, LENGTH)


@pytest.mark.parametrize("name", NETS)
def test_the_file_computes_it(name):
    """The plan is the model, the integers its roundings, the file the integers, of padding of any length."""
    made, _ = check(NETS[name], TOKENS, tolerance=1e-5, most=3)
    assert len(of_kind(made, Mask)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_both_back_ends_store_equal_integers(name):
    check(NETS[name], TOKENS, backend="jax2tf", tolerance=1e-5, most=3)


def test_a_file_may_take_several_sentences_at_a_time():
    _, twin, variables, tokens = net(NETS["causal"], TOKENS)
    made = make_plan(twin, variables, tokens[:3])
    frozen = freeze(made, variables)
    content, _ = integer_file(made, frozen, "litert", Layout(batch=3))
    for three in (tokens[:3], tokens[3:6]):
        found = Interpreter(content).run(np.asarray(three))
        np.testing.assert_array_equal(found, simulate(made, frozen, three))


@pytest.mark.parametrize("name", ["padding", "keys", "causal", "added"])
def test_padding_is_hidden_from_the_integers(name):
    """What the table says of padding changes no integer of the places that are words."""
    _, _, variables, tokens = net(NETS[name], TOKENS)
    module = Encoder(NETS[name].mask, adds=NETS[name].adds, everywhere=True)
    model = quantize(from_linen(module))
    made = make_plan(model, variables, tokens)
    frozen = freeze(made, variables)
    moved = dict(frozen.constants)
    (table,) = (key for key in moved if key.endswith("tokens:lookup#0"))
    other = moved[table].values.copy()
    other[0] = -other[0] - 1
    assert (other[0] != moved[table].values[0]).any()
    moved[table] = type(moved[table])(other, moved[table].grid)
    answers = [
        np.asarray(simulate(made, type(frozen)(frozen.grids, frozen.kernels, constants), tokens))
        for constants in (frozen.constants, moved)
    ]
    words = np.asarray(tokens) != 0
    np.testing.assert_array_equal(*(answer[words] for answer in answers))
    assert (answers[0][~words] != answers[1][~words]).any()


@pytest.mark.parametrize("name", ["padding", "decoder"])
def test_it_trains(name):
    _, twin, variables, tokens = net(NETS[name], TOKENS)
    shape = jax.eval_shape(twin.apply, variables, tokens)[0].shape
    target = jnp.asarray(np.random.default_rng(1).integers(0, 4, shape[:-1]))
    variables = trained(twin, variables, tokens, target)
    one = make_plan(twin, variables, tokens[:1])
    content, _ = integer_file(one, freeze(one, variables), "litert")
    made = make_plan(twin, variables, tokens)
    integers = simulate(made, freeze(made, variables), tokens)
    np.testing.assert_array_equal(run(content, tokens), integers)


def test_a_batch_of_padding_alone_leaves_ranges_that_serve():
    """Calibrated on nothing but padding, and after that on words: the grids reach as far as they must."""
    model = from_linen(NETS["padding"])
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS)
    twin = quantize(model)
    alone = calibrate(twin, variables, [TOKENS])
    variables = calibrate(twin, variables, [jnp.zeros_like(TOKENS), TOKENS])
    made = make_plan(twin, variables, TOKENS)
    for mask in of_kind(made, Mask):
        reached, needed = (float(v["quant"][mask.site]["low"]) for v in (variables, alone))
        assert -np.inf < reached <= needed < -mask.margin + 1
    frozen = freeze(made, variables)
    answers = np.asarray(simulate(made, frozen, TOKENS)).astype(int)
    assert np.ptp(answers) > 100
    np.testing.assert_array_equal(answers[1], simulate(made, frozen, jnp.zeros_like(TOKENS))[0])


class Pooled(nn.Module):
    function: object

    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(3)(self.function(nn.Embed(WORDS, WIDTH)(tokens), tokens))


def real(tokens):
    return (tokens != 0).astype(jnp.float32)[..., None]


PLACE = (
    r"hide places from attention.*in place of a mean over some places read one of them, x\[:, 0\]"
)
REFUSED = {
    "masked_mean": (lambda x, t: (x * real(t)).sum(1) / real(t).sum(1), PLACE),
    "masked_where": (lambda x, t: jnp.where((t != 0)[..., None], x, 0.0).mean(1), PLACE),
    "count": (
        lambda x, t: jnp.where(
            (jnp.arange(LENGTH)[None] < (t != 0).sum(1)[:, None])[..., None], x, -1e9
        ).max(1),
        "ask each token by itself",
    ),
    "product_of_numbers": (
        lambda x, t: jnp.where(nn.make_attention_mask(t, t)[:, 0], x @ x.swapaxes(1, 2), -1e9),
        "for a mask ask of them, tokens > 0",
    ),
    "of_both": (
        lambda x, t: x + jnp.where((t != 0)[..., None], 1.0, -1e9),
        "adds a mask and numbers in one",
    ),
    "added_to_a_table": (
        lambda x, t: x + (jnp.where((t != 0)[..., None], 0.0, -1e9) + TABLE[None, :LENGTH, :1]),
        "adds a mask and numbers in one",
    ),
    "of_another": (
        lambda x, t: jnp.where((t[:1] != 0)[..., None], x, -1e9).max(1),
        "not known before the model runs.*ask each token by itself",
    ),
    "of_computed": (lambda x, t: jnp.where(x > 0, x, -1e9).max(1), "ask each token by itself"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_cannot_have_is_refused_with_the_way_out(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        plan_of(Pooled(function), TOKENS)


def test_an_answer_is_no_output():
    class Mask(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return (tokens != 0).astype(jnp.float32)

    assert "as a mask of padding" in refusal(Mask(), TOKENS)


def test_pmap_and_a_mesh_are_one_device():
    """A device whose examples are padding alone keeps no number, and ranges are those of all devices."""
    _, twin, variables, _ = net(NETS["padding"], TOKENS)
    tokens = jnp.concatenate([jnp.zeros((2, LENGTH), jnp.int32), TOKENS[2:8]])

    def train(variables, tokens):
        logits, updates = twin.apply(variables, tokens, train=True)
        return logits, {**variables, **updates}

    logits, alone = jax.jit(train)(variables, tokens)
    mapped = jax.pmap(train, axis_name=AXIS, in_axes=(None, 0), out_axes=(0, None))
    shards, together = mapped(variables, tokens.reshape(4, 2, LENGTH))
    np.testing.assert_allclose(shards.reshape(logits.shape), logits, atol=1e-5)
    mesh = jax.make_mesh((4,), (AXIS,), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    spread, meshed = jax.jit(train)(variables, jax.device_put(tokens, rows))
    np.testing.assert_allclose(spread, logits, atol=1e-5)
    for other in (together, meshed):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            other["quant"],
            alone["quant"],
        )
