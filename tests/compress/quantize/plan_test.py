"""Plans read as intended, and do not depend on the batch size nor on where they are made."""

import jax
import pytest
from quantize_nets import Branches, PreActivation, Residual, Shared, pictures, start

from jaxmini.compress.quantize import Grid, make_plan, quantize
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
