"""Maxima and minima with numbers, and rectifiers wherever they stand, all the way to the file."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quantize_checks import check, net, plan_of, refusal
from quantize_nets import pictures

from jaxmini.compress.quantize import freeze, make_plan
from jaxmini.compress.quantize.plan import AveragePool, Clip
from jaxmini.export.flatbuffer import read

LEVELS = np.linspace(-1, 0, 4, dtype=np.float32)[None, None, None]


class Around(nn.Module):
    """A function between two convolutions."""

    function: object

    @nn.compact
    def __call__(self, x):
        x = self.function(nn.Conv(4, (3, 3), 2, name="first")(x))
        return nn.Conv(2, (1, 1), name="last")(x)


def pooled(x):
    return nn.pooling.pool(x, 0.0, lax.add, (2, 2), (2, 2), "VALID") / 4.0


FUNCTIONS = {
    "clip": lambda x: jnp.clip(x, -0.5, 0.75),
    "relu_and_minimum": lambda x: jnp.clip(x, 0.0, 0.5),
    "hard_tanh": nn.hard_tanh,
    "maximum_a_channel": lambda x: jnp.maximum(x, LEVELS),
    "abs": lambda x: jnp.abs(x) - 0.5,
    "of_a_sum": lambda x: jnp.clip(x + x[:, ::-1], -1.0, 1.0),
    "of_averages": lambda x: jnp.clip(pooled(x), -0.2, 0.2),
    "clip_of_averages_of_relu": lambda x: jnp.clip(pooled(nn.relu(12.0 * x)), 0, 6),
    "relu6_of_what_is_joined": lambda x: nn.relu6(jnp.concatenate([9.0 * x, x[:, ::-1]], -1)),
    "relu_of_what_is_read_twice": lambda x: nn.relu(x) - 0.5 * x,
}


class Parts(nn.Module):
    """Each function between two convolutions of its own."""

    @nn.compact
    def __call__(self, x):
        parts = [
            Around(function, name=name)(x).mean((1, 2)) for name, function in FUNCTIONS.items()
        ]
        return sum(parts[1:], parts[0])


@pytest.mark.parametrize("backend", ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)])
def test_the_file_holds_numbers_as_the_model_does(backend):
    plan, content = check(Parts(), backend=backend, most=8)
    ops = read(content).op_counts
    assert {"AVERAGE_POOL_2D", "MAXIMUM", "MINIMUM"} <= ops.keys()
    averages = {g.name: str(g.clamp) for g in plan.groups if isinstance(g, AveragePool)}
    assert averages["Parts/clip_of_averages_of_relu:avg_pool"] == "relu6"


@pytest.mark.parametrize("name", ["clip", "of_a_sum"])
def test_a_grid_reaches_no_further_than_what_is_read(name):
    _, twin, variables, inputs = net(Around(FUNCTIONS[name]))
    plan = make_plan(twin, variables, inputs)
    group = next(g for g in plan.groups if getattr(g, "clip", None))
    grid = freeze(plan, variables).grids[group.site]
    low, high = ((end - int(grid.zero_point)) * grid.scale for end in (-128, 127))
    assert group.clip.low - grid.scale <= low <= 0 <= high <= group.clip.high + grid.scale
    assert f"within {group.clip.low:g} to {group.clip.high:g}" in str(plan)


def test_a_clamp_is_a_clip():
    plan = plan_of(Around(lambda x: lax.clamp(-1.0, x, 0.5)))
    assert plan.groups[0].clip == Clip(-1.0, 0.5)
    assert [group.op.name for group in plan.groups[1:3]] == ["max", "min"]


def test_what_holds_numbers_is_put_together():
    def function(x):
        return jnp.maximum(jnp.minimum(jnp.clip(x, -3.0, 5.0), 4.0), -2.0)

    assert plan_of(Around(function)).groups[0].clip == Clip(-2.0, 4.0)
    empty = Clip().after("max", 2.0).after("min", 1.0)
    np.testing.assert_array_equal(empty(jnp.array([0.0, 1.5, 3.0])), 1.0)


def test_the_derivative_of_a_clip_is_1_at_its_ends():
    x = jnp.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    slope = jax.vmap(jax.grad(Clip(-1.0, 1.0)))(x)
    np.testing.assert_array_equal(slope, [0, 1, 1, 1, 0])


def test_a_clip_trains():
    _, twin, variables, inputs = net(Around(FUNCTIONS["clip"]))

    def loss(params):
        outputs, updates = twin.apply({**variables, "params": params}, inputs, train=True)
        return jnp.square(outputs).sum(), updates

    (_, updates), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))
    seen = updates["quant"]["Around/first:conv"]
    assert (seen["low"], seen["high"]) == pytest.approx((-0.5, 0.75), abs=1e-6)


def test_a_function_of_the_name_of_jax_s_is_taken_at_its_word():
    @jax.jit
    def hard_tanh(x):
        return jnp.clip(x, -2.0, 2.0)

    assert plan_of(Around(hard_tanh)).groups[0].clip == Clip(-2.0, 2.0)


REFUSED = {
    "elu": nn.elu,
    "celu": nn.celu,
    "selu": nn.selu,
    "softplus": nn.softplus,
    "mish": jax.nn.mish,
    "prelu": lambda x: nn.PReLU()(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_functions_without_an_operator_are_refused_when_the_model_is_planned(name):
    message = refusal(Around(REFUSED[name]), pictures())
    assert "the module Around" in message
    assert "use " in message
