"""Parts of what was joined are parts of what went into it: layers that were stacked keep their own grids."""

import flax.linen as nn
import jax.numpy as jnp
import pytest
from jax import lax
from quantize_checks import check, plan_of

from jaxmini.export.flatbuffer import read


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        x = x + nn.relu(nn.Conv(4, (3, 3))(x))
        return x, x


class Stacked(nn.Module):
    """A scan whose layers are all returned, and a function of them."""

    function: object

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), 2, name="stem")(x)
        axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        _, rows = nn.scan(Layer, length=3, **axes)(name="layers")(x, None)
        return nn.Dense(3, name="head")(self.function(rows).mean((1, 2)))


class Parts(nn.Module):
    """A function of three branches that are joined."""

    function: object

    @nn.compact
    def __call__(self, x):
        parts = [nn.Conv(n, (3, 3), 2, name=f"part{n}")(x) for n in (1, 2, 4)]
        x = self.function(jnp.concatenate(parts, -1))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


READ = {
    "first": lambda rows: rows[0],
    "last": lambda rows: rows[-1],
    "sum": lambda rows: rows[2] + rows[0],
    "some": lambda rows: jnp.concatenate([rows[1], rows[2]], -1),
    "all": lambda rows: jnp.moveaxis(rows, 0, -1).reshape(*rows.shape[1:4], -1),
}


BACKENDS = ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)]


def read_all(rows):
    """All that is read of the layers, side by side; ``all`` alone joins them."""
    return jnp.concatenate([function(rows) for name, function in READ.items() if name != "all"], -1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_file_of_stacked_layers_computes_them(backend):
    check(Stacked(read_all), backend=backend)


def test_layers_that_are_read_alone_keep_their_grids():
    assert not plan_of(Stacked(READ["sum"])).ties
    assert len(plan_of(Stacked(READ["all"])).ties) == 1


TAKEN = {
    "one": (lambda x: x[..., 1:3], 0),
    "inside_one": (lambda x: x[..., 4:6], 0),
    "strided": (lambda x: x[:, ::2, 1:, 3::2], 0),
    "two": (lambda x: x[..., :3], 1),
    "parts_of_two": (lambda x: x[..., 2:5], 1),
    "split": (lambda x: jnp.split(x, (1, 3), -1)[1], 0),
    "dynamic": (lambda x: lax.dynamic_slice_in_dim(x, 5, 4, -1), 0),
    "nested": (lambda x: jnp.concatenate([x[..., 1:], x], -1)[..., :2], 0),
    "whole": (lambda x: x[..., 0:7], 2),
    "other_axis": (lambda x: x[:, 1:3], 2),
}


@pytest.mark.parametrize("name", TAKEN)
def test_only_what_stays_joined_shares_a_grid(name):
    function, shared = TAKEN[name]
    plan = plan_of(Parts(function))
    assert sum(map(len, plan.ties.values())) == shared


def test_the_file_computes_the_parts():
    def function(x):
        kept = (f(x) for f, _ in TAKEN.values() if f(x).shape[:3] == x.shape[:3])
        return jnp.concatenate(list(kept), -1)

    check(Parts(function))


def test_what_is_not_read_is_not_computed():
    _, content = check(Parts(TAKEN["one"][0]))
    assert read(content).op_counts["CONV_2D"] == 1
