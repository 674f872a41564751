"""Fineness: what no kernel multiplies by is refused before a converter sees it, by its site."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxmini.compress.quantize import Grid, calibrate, freeze, make_plan, quantize, simulate
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.export.fineness import LIMIT, require_coarse
from jaxmini.export.integer import integer_file
from jaxmini.model import from_linen


class Kinds(nn.Module):
    """A convolution, a sum, a product, a product of activations and a mean."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        z = (y + nn.Conv(4, (1, 1), name="other")(x)) * nn.sigmoid(y)
        z = z.reshape(len(z), -1, 4)
        z = jnp.einsum("bqc,bkc->bqk", z, z)
        return nn.Dense(3, name="head")(z.mean(1))


@pytest.fixture(scope="module")
def network():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    model = quantize(from_linen(Kinds()))
    variables = calibrate(model, jax.jit(model.init)(jax.random.key(0), x), [x])
    plan = make_plan(model, variables, x[:1])
    return plan, freeze(plan, variables)


@pytest.mark.parametrize("what", ["conv:conv", "add", "mul", "matmul", "mean", "head:dense"])
def test_a_range_of_next_to_nothing_is_named(network, what: str):
    plan, frozen = network
    site = next(group.site for group in plan.groups if what in group.site)
    tiny = Grid(np.float32(4e-11), np.int32(0))
    frozen = dataclasses.replace(frozen, grids={**frozen.grids, site: tiny})
    with pytest.raises(ValueError, match=f"numbers at {site!r} are held in steps of 4e-11.*calibr"):
        integer_file(plan, frozen, "litert")


def test_what_kernels_multiply_by_passes(network):
    plan, frozen = network
    require_coarse(plan, frozen)
    group = plan.weighted[0]
    kernel = frozen.kernels[group.name]
    largest = float(np.max(kernel.input_scale * kernel.scale))
    for part, refused in ((1.01, False), (0.99, True)):
        grid = Grid(np.float32(part * largest / LIMIT), np.int32(0))
        changed = dataclasses.replace(frozen, grids={**frozen.grids, group.site: grid})
        if refused:
            with pytest.raises(ValueError, match="go up to 256"):
                require_coarse(plan, changed)
        else:
            require_coarse(plan, changed)


class Means(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.mean(-1)


def test_a_mean_may_be_as_much_finer_as_it_has_numbers():
    """Those of a wide transformer's places, before LayerNorm takes them away, are next to nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 768)).astype(np.float32)
    x += rng.uniform(-0.02, 0.02, (4, 3, 1)).astype(np.float32) - x.mean(-1, keepdims=True)
    model = quantize(from_linen(Means()))
    variables = calibrate(model, model.init(jax.random.key(0), x[:1]), [x])
    plan = make_plan(model, variables, x[:1])
    frozen = freeze(plan, variables)
    given, mean = frozen.grids["input"], frozen.grids[plan.output_site]
    assert given.scale > 150 * mean.scale
    for factor in (1.0, 3.0, 100.0):
        finer = Grid(np.float32(mean.scale / factor), mean.zero_point)
        changed = dataclasses.replace(frozen, grids={**frozen.grids, plan.output_site: finer})
        content, _ = integer_file(plan, changed, "litert")
        net = Interpreter(content)
        for one in x:
            steps = np.round(one[None] / given.scale) + given.zero_point
            net.run(np.clip(steps, -128, 127).astype(np.int8))
            np.testing.assert_array_equal(
                net.tensor(net.file.outputs[0]), simulate(plan, changed, jnp.asarray(one[None]))
            )
