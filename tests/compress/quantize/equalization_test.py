"""Equalization changes no float answer, evens out kernels, and brings back per-tensor depthwise nets."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from post_training_nets import MOBILE, Mixed, accuracy, answers, batches, floats, trained, uneven
from quantize_nets import Bottlenecks, Branches, PreActivation, Residual, Shared, pictures, start

from jaxmini.compress.quantize import (
    calibrate,
    equalizable,
    equalize,
    int8,
    make_plan,
    per_tensor,
    quantize,
    rescale,
)
from jaxmini.compress.quantize.evaluate import Float
from jaxmini.model import from_linen
from jaxmini.record import describe, rebuild

MIXED = """\
5 pairs are equalized, 1 layers left out
  Mixed/first:conv with Mixed/grouped:conv
  Mixed/grouped:conv with Mixed/linear:conv
  Mixed/bare:conv with Mixed/multiplied:conv
  Mixed/multiplied:conv with Mixed/late:conv
  Mixed/late:conv with Mixed/head:dense"""


def equalized(module, x, seed=0):
    model = from_linen(module)
    variables = start(model, x, seed)
    return model, variables, equalize()(quantize(model), variables, [x])


def folded_ranges(model, variables, x):
    """The largest weight of each output channel, by group."""
    plan = make_plan(model, floats(variables), x)
    hooks = Float(plan, floats(variables))
    kernels = {group.name: np.abs(hooks.weight(group)[0]) for group in plan.weighted}
    return {name: np.max(k.reshape(-1, k.shape[-1]), 0) for name, k in kernels.items()}


@pytest.mark.parametrize("module", [Mixed(), Branches(), PreActivation(), MOBILE])
def test_float_answers_stay(module):
    x = pictures(4)
    model, variables, changed = equalized(module, x)
    expected = answers(model, variables, x)
    np.testing.assert_allclose(
        answers(model, floats(changed), x), expected, atol=1e-5 * np.abs(expected).max()
    )
    moved = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), variables, floats(changed))
    assert max(jax.tree.leaves(moved["params"])) > 0.01
    # BatchNorm without gamma has nothing else to take a factor.
    assert any(jax.tree.leaves(moved["batch_stats"])) == isinstance(module, Mixed)
    shapes = jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), variables, floats(changed)
    )
    assert all(jax.tree.leaves(shapes))


def test_training_answers_stay_too():
    x = pictures(4)
    model, variables, changed = equalized(MOBILE, x)
    train = jax.jit(functools.partial(model.apply, train=True))
    (expected, stats), (found, found_stats) = train(variables, x), train(floats(changed), x)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    row = "row1_block0"
    np.testing.assert_allclose(
        found_stats["batch_stats"][row]["expand"]["bn"]["var"],
        stats["batch_stats"][row]["expand"]["bn"]["var"],
        rtol=1e-4,
    )


def test_a_depthwise_triple_shares_its_range():
    x = pictures(4)
    model, variables, changed = equalized(MOBILE, x)
    before, after = (folded_ranges(model, v, x) for v in (variables, changed))
    names = [f"MobileNet/row1_block0/{part}/conv:conv" for part in ("expand", "depthwise")]
    project = "row1_block0/project"

    def rows(v):
        plan = make_plan(model, floats(v), x)
        group = next(g for g in plan.weighted if project in g.name)
        return np.abs(Float(plan, floats(v)).weight(group)[0]).max((0, 1, 3))

    live = before[names[0]] * before[names[1]] > 0  # gamma is 0 in the first channel
    triple = np.cbrt(before[names[0]] * before[names[1]] * rows(variables))[live]
    for found in (after[names[0]], after[names[1]], rows(changed)):
        np.testing.assert_allclose(found[live], triple, rtol=1e-3)
    assert not live[0]
    assert live.sum() > 8


def test_ranges_are_calibrated_anew():
    x = pictures(4)
    model, _, changed = equalized(Mixed(), x)
    model = quantize(model)
    assert np.all(np.isfinite(answers(model, changed, x)))
    plan = make_plan(model, changed, x)
    assert set(changed["quant"]) == set(plan.observed)


def test_a_collapsed_per_tensor_net_is_brought_back():
    model, variables = trained()
    collapsed, images = uneven(variables), batches()
    expected = accuracy(model, variables)
    assert expected > 0.85
    assert abs(accuracy(model, collapsed) - expected) < 0.005
    quantized = quantize(model, int8(kernel=per_tensor()))
    changed = equalize()(quantized, collapsed, images)
    assert accuracy(quantized, calibrate(quantized, collapsed, images)) < 0.5
    assert accuracy(quantized, changed) > expected - 0.03
    again = equalize()(quantized, changed, images)
    np.testing.assert_allclose(
        answers(quantized, again, images[0]), answers(quantized, changed, images[0]), atol=0.2
    )


def test_what_is_left_out_is_told():
    x = pictures(4)
    model = from_linen(Mixed())
    plan = make_plan(model, start(model, x), x)
    assert str(equalizable(plan)).startswith(MIXED)
    assert equalizable(plan).left_out == {
        "Mixed/linear:conv": "what Mixed/linear:conv adds is shared or no variable"
    }
    model = from_linen(Residual())
    left_out = equalizable(make_plan(model, start(model, x), x)).left_out
    assert left_out["Residual/stem:conv"].endswith("read by Residual/depthwise:conv, Residual:add")
    assert (
        left_out["Residual/depthwise:conv"] == "no factor passes relu6: build the model with relu"
    )
    assert left_out["Residual/pointwise:conv"] == "it feeds Residual:add, which has no kernel"


@pytest.mark.parametrize(
    ("module", "reason"),
    [(Bottlenecks(), "relu6: build the model with relu"), (Shared(), "shared")],
)
def test_nets_without_a_pair_are_refused(module, reason):
    x, model = pictures(4), from_linen(module)
    with pytest.raises(ValueError, match=f"no layer can be equalized with .*{reason}"):
        equalize()(quantize(model), start(model, x), [x])


def test_wrong_inputs_are_refused():
    x, model = pictures(4), from_linen(Mixed())
    variables = start(model, x)
    with pytest.raises(ValueError, match="the model is not quantized: give it quantize"):
        equalize()(model, variables, [x])
    model = quantize(model)
    for empty in ([], [x[:0]]):
        with pytest.raises(ValueError, match="there are no pictures"):
            equalize()(model, variables, empty)
    with pytest.raises(ValueError, match="batch 1 are not finite"):
        equalize()(model, variables, [x, x.at[0, 0, 0, 0].set(np.nan)])
    with pytest.raises(ValueError, match="got one array, expected batches"):
        equalize()(model, variables, x)


def test_one_layer_is_refused():
    x, model = pictures(4)[:, 0, 0], from_linen(nn.Dense(3))
    with pytest.raises(ValueError, match="there is one layer"):
        equalize()(quantize(model), jax.jit(model.init)(jax.random.key(0), x), [x])


def test_it_is_recorded_by_name():
    assert rebuild(describe(equalize())) == equalize()


class TestRescale:
    first = "MobileNet/row1_block0/expand/conv:conv"

    def plan(self):
        x = pictures(4)
        model = from_linen(MOBILE)
        variables = start(model, x, 0)
        return x, model, variables, make_plan(model, variables, x)

    def test_a_layer_is_divided_and_the_answers_stay(self):
        x, model, variables, plan = self.plan()
        before = folded_ranges(model, variables, x)
        factors = np.geomspace(0.1, 10, before[self.first].size)
        changed = rescale(plan, variables, {self.first: factors})
        after = folded_ranges(model, changed, x)
        np.testing.assert_allclose(after[self.first], before[self.first] / factors, rtol=1e-5)
        following = "MobileNet/row1_block0/depthwise/conv:conv"
        np.testing.assert_allclose(after[following], before[following] * factors, rtol=1e-5)
        expected = answers(model, variables, x)
        np.testing.assert_allclose(
            answers(model, changed, x), expected, atol=1e-5 * np.abs(expected).max()
        )

    def test_a_quantized_models_variables_give_float_ones(self):
        x, model, variables, plan = self.plan()
        factors = {self.first: np.full(folded_ranges(model, variables, x)[self.first].size, 2.0)}
        changed = rescale(plan, calibrate(quantize(model), variables, [x]), factors)
        expected = rescale(plan, variables, factors)
        assert jax.tree.structure(changed) == jax.tree.structure(expected)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, changed, expected)))

    @pytest.mark.parametrize(
        ("name", "factor", "message"),
        [
            (
                "row1_block0/expand/conv:conv",
                2.0,
                "no pair begins with 'row1_block0.*; did you mean",
            ),
            (first, np.ones(3), "expected [0-9]+ positive numbers"),
            (first, 0.0, "expected [0-9]+ positive numbers"),
            (first, np.nan, "expected [0-9]+ positive numbers"),
            (first, np.inf, "expected [0-9]+ positive numbers"),
        ],
    )
    def test_impossible_factors_are_refused(self, name, factor, message):
        x, model, variables, plan = self.plan()
        if np.ndim(factor) == 0:
            factor = np.full(folded_ranges(model, variables, x)[self.first].size, factor)
        with pytest.raises(ValueError, match=f"rescale: .*{message}"):
            rescale(plan, variables, {name: factor})
