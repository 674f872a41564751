"""Islands: which operations stay in float, where they were declared and where they normalise."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_checks import plan_of
from quantize_functions import alone, grouping_of, planned
from quantize_nets import Attention, pictures

from jaxmini.compress.quantize import float_island, int8, make_plan, quantize, weights_only
from jaxmini.compress.quantize.islands import Island, _components, find, modules
from jaxmini.compress.quantize.program import Op
from jaxmini.model import from_linen
from jaxmini.models.vit import vit

SHAPE = (2, 3, 4)


def test_a_path_goes_through_its_modules():
    assert modules("Net/block/Dense_0") == ["Net", "Net/block", "Net/block/Dense_0"]
    assert modules("") == [""]


@pytest.mark.parametrize(
    ("pattern", "path", "module"),
    [
        ("block", "Net/block/Dense_0", "Net/block"),
        ("Net/block", "Net/block/Dense_0", "Net/block"),
        ("block/*", "Net/block/Dense_0", "Net/block/Dense_0"),
        ("block/*", "Net/block", None),
        ("*", "Net/block/Dense_0", "Net"),  # the outermost that matches
        ("Block", "Net/block", None),
        ("bl?ck", "Net/block", "Net/block"),
        ("Dense_0", "Net/block/Dense_0", None),
        ("*Dense_0", "Net/block/Dense_0", "Net/block/Dense_0"),
        ("*", "", None),
    ],
)
def test_a_pattern_is_a_glob_on_the_path_of_a_module(pattern, path, module):
    assert float_island(pattern).module(path) == module


@pytest.mark.parametrize("pattern", [3, None, ""])
def test_a_pattern_is_text(pattern):
    with pytest.raises(TypeError, match="expected a glob"):
        float_island(pattern)


def norm(x):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred, variance


NORMS = {
    "layer": lambda x: norm(x)[0] / jnp.sqrt(norm(x)[1] + 1e-6),
    "rms": lambda x: x * (1 / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)),
    "with a factor": lambda x: 2 * norm(x)[0] / jnp.sqrt(norm(x)[1] + 1e-6) - 1,
}


@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_is_one_island_from_its_source_to_its_last_step(name):
    plan = planned(alone(lambda x: jnp.tanh(NORMS[name](jnp.tanh(x)))), SHAPE)
    assert [type(group).__name__ for group in plan.groups] == ["Apply", "Island", "Apply"]
    island = plan.groups[1]
    assert island.in_float
    assert not island.declared
    assert plan.site_of[island.inputs[0]] == ":tanh"
    assert str(island) == f"float island of {len(island.ops)} operations"
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_allclose(island([x], []), NORMS[name](x), rtol=1e-5, atol=1e-6)


def test_a_root_that_normalises_nothing_is_no_island():
    grouping = grouping_of(alone(lambda x: jnp.sqrt(jnp.abs(x)) * x), SHAPE)
    assert find(grouping) == {}
    with pytest.raises(ValueError, match="'sqrt' has no int8 form"):
        planned(alone(lambda x: jnp.sqrt(jnp.abs(x)) * x), SHAPE)


def test_a_statistic_that_is_seen_elsewhere_is_no_part_of_an_island():
    def shown(x):
        centred, variance = norm(x)
        return centred / jnp.sqrt(variance + 1e-6) + variance

    assert find(grouping_of(alone(shown), SHAPE)) == {}


def test_operations_without_a_number_between_them_are_two_components():
    def op(inputs, outputs):
        return Op("sin", "Net/twice", inputs, outputs, None, {})

    first, second, third = op((0,), (1,)), op((5,), (6,)), op((1,), (2,))
    assert _components([first, second, third]) == [(second,), (first, third)]
    joining = op((2, 6), (7,))
    assert _components([first, second, third, joining]) == [(first, second, third, joining)]


class Open(nn.Module):
    how: str

    @nn.compact
    def __call__(self, x):
        if self.how == "two":
            a, b = Pair(name="inner")(x)
            return a * jnp.tanh(b)
        return Sine(name="inner")(nn.Dense(4, name="dense")(x))


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = jnp.sin(x)
        return y, y + 1


class Sine(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.sin(x)


def declared(module, *patterns, inputs=None):
    """The plan of a module with these islands."""
    inputs = np.ones(SHAPE, np.float32) if inputs is None else inputs
    model = from_linen(module)
    variables = {**jax.eval_shape(model.init, jax.random.key(0), inputs), "quant": {}}
    return make_plan(
        quantize(model, int8(rules=tuple(map(float_island, patterns)))), variables, inputs
    )


def test_a_declared_module_needs_no_int8_form():
    with pytest.raises(
        ValueError, match=r"'sin' in the module Open/inner.*float_island\('inner'\)"
    ):
        plan_of(Open("one"), np.ones(SHAPE, np.float32))
    plan = declared(Open("one"), "inner")
    (island,) = (group for group in plan.groups if isinstance(group, Island))
    assert (island.name, island.declared) == ("Open/inner:island", True)


def test_a_module_that_leaves_two_arrays_is_refused():
    with pytest.raises(ValueError, match="the module Open/inner leaves 2 arrays"):
        declared(Open("two"), "inner")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("block0/atention", r"matches no module .* near it: .*block0/attention"),
        ("block1", "matches no module"),
    ],
)
def test_islands_that_cannot_be_are_refused(pattern, message):
    net = vit(5, patch=4, width=16, layers=1, heads=2)
    with pytest.raises(ValueError, match=message):
        declared(net, pattern, inputs=pictures(1))


def test_an_island_leaves_one_array():
    plan = declared(Attention(), "qkv", "attention/[qk]*", inputs=pictures(1))
    assert sum(group.name.endswith("island") for group in plan.groups) == 3
    net = vit(5, patch=4, width=16, layers=1, heads=2)
    plan = declared(net, "block0/attention/*qhd,...khd*", inputs=pictures(1))
    assert any("island" in group.name for group in plan.groups)


class Padded(nn.Module):
    """Attention whose mask is made of tokens, in a module of its own or in the model itself."""

    inside: bool

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 4, name="tokens")(tokens)
        mask = tokens if self.inside else nn.make_attention_mask(tokens > 0, tokens > 0)
        return Masked(name="masked")(x, mask).mean(1)


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        if mask.ndim == 2:
            mask = nn.make_attention_mask(mask > 0, mask > 0)
        return nn.MultiHeadDotProductAttention(2)(x, mask=mask)


TOKENS = np.ones((2, 5), np.int32)
KNOWN = "make masks and choices of constants.*weights_only"


@pytest.mark.parametrize("inside", [True, False])
def test_a_mask_made_of_tokens_needs_no_island(inside):
    assert not any(group.in_float for group in plan_of(Padded(inside), TOKENS).groups)
    model = from_linen(Padded(inside))
    variables = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    make_plan(quantize(model, weights_only()), {**variables, "quant": {}}, TOKENS)


@pytest.mark.parametrize("inside", [True, False])
def test_an_island_that_reads_tokens_or_a_mask_by_them_is_refused(inside):
    with pytest.raises(ValueError, match=f"the island reads the numbers of tokens.*{KNOWN}"):
        declared(Padded(inside), "masked", inputs=TOKENS)
