"""Numbers that move by known places and masks, and constants beside them, stay on one grid."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quantize_checks import check, names, net, plan_of, refusal
from quantize_nets import pictures

from jaxmini.compress.quantize import freeze, make_plan
from jaxmini.compress.quantize.frozen import operand_name
from jaxmini.compress.quantize.moving import Select
from jaxmini.compress.quantize.plan import Move
from jaxmini.export.flatbuffer import read

MASK = np.zeros((1, 6, 6, 1), bool)
MASK[:, 2:, 1:4] = True
BORDER = ((0, 0), (1, 2), (1, 0), (0, 0))


class Around(nn.Module):
    """A function between two convolutions."""

    function: object

    @nn.compact
    def __call__(self, x):
        x = self.function(nn.Conv(4, (3, 3), 2, name="first")(x))
        return nn.Conv(2, (1, 1), name="last")(x)


class Places(nn.Module):
    """Permutations, slices, borders and repetitions one after another."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), 2, name="first")(x)
        x = x.reshape(*x.shape[:3], 2, 2).swapaxes(3, 4).reshape(x.shape)  # a channel shuffle
        x = jnp.take(x, np.array([2, 0, 1, 3, 1]), axis=-1)
        x = jnp.pad(lax.dynamic_slice_in_dim(x, 2, 3, 1), BORDER, mode="reflect")
        x = jnp.pad(jnp.roll(x, 2, 2), BORDER, mode="edge")
        x = jnp.tile(jnp.repeat(lax.stop_gradient(x), 2, 1), (1, 1, 2, 1))
        return nn.Conv(2, (1, 1), name="last")(jnp.stack([x, x[:, ::-1]], -1).max(-1))


class Extremes(nn.Module):
    """The larger and the smaller of two activations, and the largest of all pixels."""

    @nn.compact
    def __call__(self, x):
        a, b = (nn.Conv(4, (3, 3), 2, name=name)(x) for name in "ab")
        a, b = jnp.maximum(a, b), jnp.minimum(2.0 * a, b)
        x = nn.relu(jnp.concatenate([a, nn.relu(b)], -1).max((1, 2)))
        return nn.Dense(3, name="head")(x)


class Constants(nn.Module):
    """Choices by a mask, and a border, beside constants."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), 2, name="first")(x)
        x = jnp.pad(jnp.where(MASK, x, 0.25), BORDER, constant_values=-0.5)
        wide = np.pad(MASK, BORDER)
        x = jnp.where(wide, x, x[:, ::-1])
        level = np.linspace(-1, 1, 4, dtype=np.float32)[None, None, None]
        return nn.Conv(2, (1, 1), name="last")(jnp.where(wide, level, x))


def test_places_move():
    plan, _ = check(Places())
    assert plan.sites == ("input", "Places/first:conv", "Places/last:conv")


def test_extremes_share_a_grid():
    plan, content = check(Extremes())
    assert {"MAXIMUM", "MINIMUM", "REDUCE_MAX"} <= read(content).op_counts.keys()
    assert plan.ties == {"Extremes/a:conv": ("Extremes/b:conv", "Extremes:scale")}
    assert "Extremes:maximum" in names(plan)


def test_a_rectifier_moves_before_the_largest():
    plan = plan_of(Around(lambda x: nn.relu(x.max((1, 2), keepdims=True))))
    assert plan.groups[0].clamp is not None
    assert all(isinstance(group, Move) for group in plan.groups[1:-1])


def test_constants_lie_on_the_grid_of_what_they_join():
    plan, content = check(Constants())
    assert {"SELECT", "PADV2"} <= read(content).op_counts.keys()
    assert [type(group) for group in plan.groups].count(Select) == 3
    _, twin, variables, inputs = net(Constants())
    plan = make_plan(twin, variables, inputs)
    frozen = freeze(plan, variables)
    pad = next(group for group in plan.groups if group.name.endswith(":pad"))
    stored, grid = frozen.constants[operand_name(pad, 1)], frozen.grids["Constants/first:conv"]
    assert stored.grid == grid
    np.testing.assert_allclose(stored.float_values, -0.5, atol=grid.scale / 2 + 1e-6)


def test_a_constant_beyond_the_grid_becomes_its_end():
    def function(x):
        return nn.max_pool(jnp.pad(x, BORDER, constant_values=-jnp.inf), (3, 3))

    plan, _ = check(Around(function))
    assert names(plan)[1] == "Around:pad"


def test_constants_are_frozen_without_the_batch():
    _, twin, variables, inputs = net(Constants())
    shapes = [
        {name: c.values.shape for name, c in freeze(plan, variables).constants.items()}
        for plan in (make_plan(twin, variables, inputs[:n]) for n in (1, 4))
    ]
    assert shapes[0] == shapes[1]


def test_training_passes_what_is_chosen():
    _, twin, variables, inputs = net(Constants())

    def loss(params):
        logits, updates = twin.apply({**variables, "params": params}, inputs, train=True)
        return jnp.square(logits).sum(), updates

    _, grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))


REFUSED = {
    "leaky_where": (lambda x: jnp.where(x > 0, x, 0.1 * x), "use nn.relu or nn.leaky_relu"),
    "beyond": (
        lambda x: jnp.take(x, np.array([0, 7]), axis=-1, mode="fill"),
        "it reads beyond the ends of an axis",
    ),
    "batch": (lambda x: x[np.array([1, 0])], "it reads across the batch"),
    "moving_slice": (
        lambda x: lax.dynamic_slice_in_dim(x, x.argmax().astype(int), 2, 1),
        "argmax",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_before_is_refused(name):
    function, message = REFUSED[name]
    assert message in refusal(Around(function), pictures())
