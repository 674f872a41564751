"""Rules give parts of a network their estimator and kernel, say so in the plan, and refuse to do nothing."""

import pickle

import jax
import pytest
from quantize_nets import Attention, Branches, Residual, pictures, start

from jaxmini.compress.quantize import (
    Grid,
    int8,
    lsq,
    make_plan,
    min_max,
    mse,
    observed,
    per_channel,
    per_tensor,
    percentile,
    quantize,
    rule,
)
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.transform import int8 as recorded_int8
from jaxmini.model import from_linen
from jaxmini.record import describe, rebuild

PLAN = """\
plan [4, 12, 12, 3] -> [4, 5]: 7 groups, 7 grids
  Residual/stem:conv       fold sub mul add, relu, per_channel(bits=4, mse=True)  of input
  Residual/depthwise:conv  fold sub mul add, relu6                                of Residual/stem:conv
  Residual/pointwise:conv  fold sub mul add, percentile(p=99.9)                   of Residual/depthwise:conv
  Residual:add             relu, percentile(p=99.9)                               of Residual/stem:conv + \
Residual/pointwise:conv
  Residual:max_pool                                                               on Residual:add
  Residual:mean                                                                   of Residual:add
  Residual/head:dense      fold add, per_tensor(bits=8, mse=False), mse()         of Residual:mean
  input: mse()"""

RULES = (
    rule("stem", kernel=per_channel(bits=4, mse=True)),
    rule("head*", estimator=mse(), kernel=per_tensor()),
    rule("input", estimator=mse()),
    rule("Residual/depth*:conv", estimator=min_max()),
    rule("*add", estimator=percentile(99.9)),
    rule("*:conv", estimator=percentile(99.9)),
)


def plan_of(module, *rules, **settings):
    model, x = from_linen(module), pictures()
    quantized = quantize(model, int8(rules=rules, **settings))
    return make_plan(quantized, start(model, x), x)


def test_golden():
    plan = plan_of(Residual(), *RULES)
    assert str(plan) == PLAN
    assert plan.estimator("Residual/head:dense") == mse()
    assert {name for name, kernel in plan.kernels.items() if kernel != per_channel()} == {
        "Residual/stem:conv",
        "Residual/head:dense",
    }


def test_the_first_rule_alone_decides():
    first, other = rule("head", kernel=per_tensor()), rule("*:conv", estimator=mse())
    plan = plan_of(Residual(), first, other, estimator=percentile(99))
    assert plan.estimator("Residual/head:dense") == percentile(99)
    assert plan.estimator("Residual/stem:conv") == mse()
    assert plan.estimator("Residual:mean") == percentile(99)
    turned = plan_of(Residual(), rule("stem", mse()), first, rule("Residual/*", percentile(90)))
    assert turned.estimator("Residual/stem:conv") == mse()
    assert turned.estimator("Residual/pointwise:conv") == percentile(90)


@pytest.mark.parametrize(
    "pattern", ["head", "head:dense", "Residual/head", "*head:*", "h?ad", "head/*"]
)
def test_patterns_match_names_and_paths(pattern):
    assert rule(pattern, mse()).matches("Residual/head:dense")
    assert not rule(pattern, mse()).matches("Residual/body:dense")
    assert not rule(pattern.upper(), mse()).matches("Residual/head:dense")


def test_a_rule_that_matches_nothing_lists_near_misses():
    with pytest.raises(
        ValueError, match=r"rule\('Residual/stam'\) matches nothing; near it: Residual/stem"
    ):
        plan_of(Residual(), rule("Residual/stam", mse()))
    with pytest.raises(
        ValueError, match=r"'zzz'\) matches nothing; there are: input, Residual/stem"
    ):
        plan_of(Residual(), rule("zzz", mse()))


def test_a_rule_that_sets_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"rule\('head'\) comes after rules that match all it matches"
    ):
        plan_of(Residual(), rule("head*", mse()), rule("head", percentile(99)))
    with pytest.raises(
        ValueError, match="sets its kernel, and nothing .* has a kernel: Residual:add; these have"
    ):
        plan_of(Residual(), rule("*add", kernel=per_tensor()))
    with pytest.raises(
        ValueError, match="sets its estimator, and nothing .* has a range of its own: Res.*:max"
    ):
        plan_of(Residual(), rule("*max_pool", mse()))
    with pytest.raises(ValueError, match=r"rule\('head'\) sets nothing"):
        rule("head")
    with pytest.raises(
        TypeError, match=r"rule\('head'\): kernel is mse\(\), expected one as per_tensor"
    ):
        rule("head", kernel=mse())
    with pytest.raises(TypeError, match="expected a tuple as"):
        int8(rules=[rule("head", mse())])


def test_the_grid_of_a_mask_is_not_chosen():
    plan = plan_of(Attention(), activation=lsq(), estimator=mse())
    masks = [group.site for group in plan.groups if isinstance(group, Mask)]
    assert len(masks) == 2
    for site in masks:
        assert (plan.activation(site), plan.estimator(site)) == (observed(), min_max())
    others = set(plan.observed) - set(masks)
    assert all(plan.activation(site) == lsq() for site in others)
    for field in ({"activation": lsq()}, {"estimator": mse()}):
        with pytest.raises(ValueError, match="nothing that it decides on has a range of its own"):
            plan_of(Attention(), rule("*:mask", **field))


def test_groups_that_share_a_grid_share_an_estimator():
    with pytest.raises(
        ValueError, match="share one grid, .* Branches/second:conv mse.*Branches:sub min_max"
    ):
        plan_of(Branches(), rule("second", mse()))
    for rules in ((rule("second", mse()), rule("*:sub", mse())), (rule("*s[eu][cb]*", mse()),)):
        assert plan_of(Branches(), *rules).estimator("Branches/second:conv") == mse()


def test_a_wrong_rule_stops_init():
    model, x = from_linen(Residual()), pictures()
    quantized = quantize(model, int8(rules=(rule("tail", mse()),)))
    with pytest.raises(ValueError, match="matches nothing"):
        jax.eval_shape(quantized.init, jax.random.key(0), x)


def test_a_given_input_grid_has_no_estimator():
    model, x = from_linen(Residual()), pictures()
    quantized = quantize(model, int8(rules=(rule("input", mse()),)), input_grid=Grid(0.05, 0))
    with pytest.raises(
        ValueError, match="'input'.* matches nothing; there are: Residual/stem:conv"
    ):
        make_plan(quantized, start(model, x), x)


def test_the_usual_plan_is_the_float_models():
    model, x = from_linen(Residual()), pictures()
    variables = start(model, x)
    plan = make_plan(model, variables, x)
    assert make_plan(quantize(model), variables, x) is plan
    assert make_plan(quantize(model, int8(momentum=0.5)), variables, x) is plan
    assert make_plan(quantize(model, int8(kernel=per_channel())), variables, x) is plan
    assert make_plan(quantize(model, int8(kernel=per_tensor())), variables, x) is not plan


def test_what_was_recorded_before_stays_valid():
    name = "jaxmini.compress.quantize.transform"
    assert repr(int8()) == "int8(momentum=0.99)"
    assert describe(int8()) == {"call": f"{name}:int8", "fields": {}}
    assert describe(int8(momentum=0.9))["fields"] == {"momentum": 0.9}
    model = from_linen(Residual())
    inner, grid = describe(model), describe(Grid(0.0625, 3))
    record = {
        "call": "jaxmini.model:Model",
        "fields": {
            "init": {"partial": f"{name}:_init", "args": [inner, grid], "keywords": {}},
            "apply": {
                "partial": f"{name}:_apply",
                "args": [inner, {"call": f"{name}:int8", "fields": {}}, grid],
                "keywords": {},
            },
        },
    }
    assert describe(quantize(model, input_grid=Grid(0.0625, 3))) == record
    x = pictures()
    variables = rebuild(record).init(jax.random.key(0), x)
    assert "Residual/stem:conv" in variables["quant"]
    assert recorded_int8 is int8


def test_schemes_are_recorded_printed_and_pickled():
    scheme = int8(
        momentum=0.9, estimator=percentile(99.9), kernel=per_tensor(bits=4), rules=RULES[:1]
    )
    assert repr(scheme) == (
        "int8(momentum=0.9, estimator=percentile(p=99.9), kernel=per_tensor(bits=4, mse=False), "
        "rules=(rule(pattern='stem', estimator=None, kernel=per_channel(bits=4, mse=True)),))"
    )
    model = quantize(from_linen(Residual()), scheme)
    assert rebuild(describe(model)).apply.args[1] == scheme
    assert describe(rebuild(describe(model))) == describe(model)
    assert pickle.loads(pickle.dumps(scheme)) == scheme
