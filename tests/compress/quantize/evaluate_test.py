"""Evaluate: a plan in floating point is the model, and a mode is asked for each number once, in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import model_of, planned

from jaxmini.compress.quantize.evaluate import LEAST, Float, evaluate, evaluate_all, evaluate_group
from jaxmini.compress.quantize.masks import Mask

RNG = np.random.default_rng(0)
SHAPE = (2, 4, 4, 3)
PARAMS = {
    "conv": RNG.normal(size=(3, 3, 3, 4)).astype(np.float32),
    "gamma": RNG.normal(size=(4,)).astype(np.float32),
    "table": RNG.normal(size=(1, 2, 2, 4)).astype(np.float32),
    "dense": RNG.normal(size=(2, 5)).astype(np.float32),
}
X = RNG.normal(size=SHAPE).astype(np.float32)


def net(params, x):
    """Every kind of group: folded and clamped products, moves, a constant, a mean, a mask, a function."""
    x = jax.lax.conv_general_dilated(
        x, params["conv"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu6(x * params["gamma"][None, None, None] + 1)
    x = x - params["table"]
    x = jax.nn.softmax(jnp.where(np.array([True, False, True, True])[None, None, None], x, -1e9))
    x = x.mean(1)
    return (x @ jnp.tanh(x).swapaxes(1, 2)) @ params["dense"]


PLAN = planned(net, SHAPE, **{name: array.shape for name, array in PARAMS.items()})


def test_without_rounding_a_plan_is_its_model():
    expected, _ = model_of(net).apply({"params": PARAMS}, X)
    actual = jax.jit(lambda x: evaluate(PLAN, Float(PLAN, {"params": PARAMS}), x))(X)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


class Noting(Float):
    """Float, and the names of what it is asked for."""

    def __init__(self) -> None:
        super().__init__(PLAN, {"params": PARAMS})
        self.asked = []

    def activation(self, site, values):
        self.asked.append(site)
        return values

    def weight(self, group):
        self.asked.append(f"weight of {group.name}")
        return super().weight(group)

    def constant(self, group, position):
        self.asked.append(f"constant {position} of {group.name}")
        return super().constant(group, position)

    def mask(self, group, values, kept):
        self.asked.append(f"mask {group.name}")
        return super().mask(group, values, kept)


def test_a_mode_is_asked_in_the_order_of_groups():
    hooks = Noting()
    jax.eval_shape(lambda x: evaluate(PLAN, hooks, x), X)
    assert hooks.asked == [
        "input",
        "weight of :conv",
        ":conv",
        "constant 1 of :sub",
        ":sub",
        "mask :mask",
        ":mask",
        ":softmax",
        ":mean",
        ":tanh",
        ":matmul",
        "weight of :dense",
        ":dense",
    ]


def test_every_value_between_groups_is_there():
    values = jax.eval_shape(lambda x: evaluate_all(PLAN, Float(PLAN, {"params": PARAMS}), x), X)
    assert PLAN.program.input in values
    assert set(values) == {PLAN.program.input, *(v for g in PLAN.groups for v in g.outputs)}
    for value, found in values.items():
        assert found.shape == PLAN.program.shape(value)
        assert found.dtype == jnp.float32


def test_one_group_is_what_it_leaves_of_its_operands():
    (mask,) = (group for group in PLAN.groups if isinstance(group, Mask))
    scores = RNG.normal(size=(2, 2, 2, 4)).astype(np.float32)
    (hidden,) = evaluate_group(
        PLAN, mask, Float(PLAN, {"params": PARAMS}), {mask.inputs[0]: scores}
    )
    np.testing.assert_array_equal(hidden[..., 2:], scores[..., 2:])
    assert (np.asarray(hidden[..., 1]) == LEAST).all()


def test_variables_of_another_tree_are_refused():
    with pytest.raises(ValueError, match="make the plan with the variables it will run on"):
        Float(PLAN, {"params": {}})
