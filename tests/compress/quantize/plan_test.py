"""Plans read as intended, do not depend on the batch size, and refuse what they do not know."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quantize_nets import Branches, PreActivation, Residual, Shared, pictures, start

from jaxmini.compress.quantize import Grid, make_plan, quantize
from jaxmini.compress.quantize.plan import Clamp, Move, Weighted
from jaxmini.model import from_linen

RESIDUAL = """\
plan [4, 12, 12, 3] -> [4, 5]: 7 groups, 7 grids
  Residual/stem:conv       fold sub mul add, relu   of input
  Residual/depthwise:conv  fold sub mul add, relu6  of Residual/stem:conv
  Residual/pointwise:conv  fold sub mul add         of Residual/depthwise:conv
  Residual:add             relu                     of Residual/stem:conv + Residual/pointwise:conv
  Residual:max_pool                                 on Residual:add
  Residual:mean                                     of Residual:add
  Residual/head:dense      fold add                 of Residual:mean"""

BRANCHES = """\
plan [4, 12, 12, 3] -> [4, 4]: 18 groups, 10 grids
  Branches:scale         fold sub div      of input
  Branches/first:conv    fold add, relu    of Branches:scale
  Branches:max_pool                        on Branches/first:conv
  Branches/second:conv   fold add, relu6   of Branches/first:conv
  Branches:split                           on Branches/second:conv
  Branches:mul                             of Branches/second:conv
  Branches:sub                             of Branches:mul + Branches/second:conv, on Branches/second:conv
  Branches:slice                           on Branches/second:conv
  Branches:pad                             on Branches/second:conv
  Branches:concat                          on Branches/second:conv
  Branches:relu                            on Branches/second:conv
  Branches:avg_pool                        on Branches/second:conv
  Branches:reshape                         on Branches/second:conv
  Branches/hidden:dense  fold add, relu    of Branches/second:conv
  Branches/side:dense    fold add          of Branches/hidden:dense
  Branches:add                             of Branches/hidden:dense + Branches/side:dense
  Branches/norm:scale    fold sub mul add  of Branches:add
  Branches/head:dense    fold add sub      of Branches/norm:scale
  tied: Branches/second:conv = Branches:sub"""


def plan_of(module, inputs, **settings):
    model = from_linen(module)
    return make_plan(model, start(model, inputs), inputs, **settings)


@pytest.mark.parametrize(("module", "text"), [(Residual(), RESIDUAL), (Branches(), BRANCHES)])
def test_golden(module, text):
    assert str(plan_of(module, pictures())) == text


@pytest.mark.parametrize("module", [Residual(), Branches(), PreActivation()])
def test_names_do_not_depend_on_the_batch(module):
    one, many = (plan_of(module, pictures(batch)) for batch in (1, 6))
    assert one.sites == many.sites
    assert [group.name for group in one.groups] == [group.name for group in many.groups]
    assert one.ties == many.ties


def test_names_do_not_depend_on_where_the_plan_is_made():
    model, x = from_linen(Residual()), pictures()
    variables, plans = start(model, x), []

    def loss(params, inputs):
        with jax.named_scope("outer"):
            plans.append(make_plan(from_linen(Residual()), {**variables, "params": params}, inputs))
        return 0.0

    jax.jit(jax.grad(loss))(variables["params"], x)
    assert str(plans[0]) == RESIDUAL


def test_plans_are_kept_by_shape():
    model, x = from_linen(Residual()), pictures()
    variables = start(model, x)
    plan = make_plan(model, variables, x)
    assert make_plan(model, variables, jax.ShapeDtypeStruct(x.shape, x.dtype)) is plan
    assert make_plan(quantize(model), {**variables, "quant": {}}, x) is plan
    assert make_plan(model, variables, x[:1]) is not plan


def test_a_given_grid_is_not_observed():
    grid = Grid(1 / 64, -128)
    plan = plan_of(Residual(), pictures(), input_grid=grid)
    assert plan.fixed == {"input": grid}
    assert plan.observed == plan.sites[1:]
    assert str(plan).endswith("given: input, scale 0.015625, zero point -128")


def test_shared_kernels_have_a_group_each():
    first, second, _, _ = plan_of(Shared(), pictures()).groups
    assert first.kernel == second.kernel
    assert first.name != second.name


def test_a_rectifier_moves_before_the_pool():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.max_pool(nn.Conv(4, (3, 3))(x), (2, 2), (2, 2)))
            return nn.relu(x.reshape(x.shape[0], -1))

    conv, pool, reshape = plan_of(Net(), pictures()).groups
    assert isinstance(conv, Weighted)
    assert conv.clamp == Clamp()
    assert isinstance(pool, Move)
    assert isinstance(reshape, Move)


def test_a_seen_value_ends_the_group():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Conv(3, (3, 3))(x)
            return (nn.relu(y) + y).mean((1, 2))

    plan = plan_of(Net(), pictures())
    assert [group.name for group in plan.groups] == [
        "Net/Conv_0:conv",
        "Net:relu",
        "Net:add",
        "Net:mean",
    ]
    assert plan.groups[0].clamp is None


class Inner(nn.Module):
    function: object

    @nn.compact
    def __call__(self, x):
        return self.function(nn.Conv(4, (3, 3))(x))


class Outer(nn.Module):
    function: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(Inner(self.function, name="block")(x).mean((1, 2)))


REFUSED = {
    "sin": (jnp.sin, r"'sin' has no int8 form \('sin' in the module Outer/block\)"),
    "square": (jnp.square, "write x \\* x; write normalisation as nn.LayerNorm"),
    "softmax": (functools.partial(jax.nn.softmax, axis=1), "take softmax over the last axis"),
    "gelu": (functools.partial(nn.gelu, approximate=False), "nn.gelu\\(x, approximate=True\\)"),
    "integers": (lambda x: x.astype(jnp.int32).astype(jnp.float32), "compute in floats"),
    "argmax": (lambda x: jnp.argmax(x, -1, keepdims=True), "take the largest outside"),
    "examples": (
        lambda x: jnp.einsum("bhwc,dhwc->bdhw", x, x),
        "activations of different examples",
    ),
    "power": (lambda x: x**3, "'integer_pow'"),
    "pad": (
        lambda x: lax.pad(x, x[0, 0, 0, 0], ((0, 0, 0), (1, 1, 0), (0, 0, 0), (0, 0, 0))),
        "pads with a number that is computed",
    ),
    "sum": (lambda x: x.sum((1, 2), keepdims=True), "a sum that is no mean"),
    "reciprocal": (lambda x: 1 / x, "'div'"),
    "clip": (lambda x: jnp.clip(x, 0, 3), "'min'"),
    "maximum": (lambda x: jnp.maximum(x, 1.0), "use relu or relu6"),
    "island": (jnp.sin, r"or declare it a float_island\('block'\)"),
    "mask": (lambda x: jnp.where(x > 0, x, -1e9), "known before the model runs"),
    "mixed_mask": (
        lambda x: x + jnp.where(jnp.eye(12, 4, dtype=bool), 1.0, -1e9)[None, None],
        "a mask and numbers in one",
    ),
    "hidden_row": (
        lambda x: jnp.where(jnp.eye(12, 4, dtype=bool), x, -1e9),
        "hides all numbers of a row",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integers_is_refused(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        plan_of(Outer(function), pictures())
    assert "Outer/block" in str(error.value)


def test_uncounted_padding_is_refused():
    def pool(x):
        with jax.numpy_dtype_promotion("standard"):
            return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)

    with pytest.raises(ValueError, match="count_include_pad=True"):
        plan_of(Outer(pool), pictures())


def test_pictures_of_bytes_are_refused():
    model, x = from_linen(Residual()), pictures()
    variables = start(model, x)
    promotion = jax.numpy_dtype_promotion("standard")
    with promotion, pytest.raises(ValueError, match="input is uint8"):
        make_plan(model, variables, jax.ShapeDtypeStruct(x.shape, np.uint8))


def test_a_given_input_grid_cannot_be_tied():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.concatenate([x, nn.Conv(3, (3, 3), name="conv")(x)], -1).mean((1, 2))

    assert plan_of(Net(), pictures()).ties == {"input": ("Net/conv:conv",)}
    with pytest.raises(ValueError, match="Net/conv:conv must share it"):
        plan_of(Net(), pictures(), input_grid=Grid(0.01, 0))


def test_an_output_without_input_is_refused():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.param("table", nn.initializers.ones, (3,))

    with pytest.raises(ValueError, match="does not depend on its input"):
        plan_of(Net(), pictures())
