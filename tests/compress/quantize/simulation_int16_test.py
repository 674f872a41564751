"""The simulation of int16 activations beside the network that trains, and what its numbers are made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_nets import Bottlenecks, PreActivation, Residual, Shared, pictures, start

from jaxmini.compress.quantize import (
    calibrate,
    freeze,
    int8,
    make_plan,
    observed,
    quantize,
    simulate,
    simulator,
)
from jaxmini.compress.quantize.evaluate import evaluate_all
from jaxmini.compress.quantize.frozen import Dequantized
from jaxmini.compress.quantize.plan import INPUT
from jaxmini.compress.quantize.simulation import simulate_group
from jaxmini.compress.quantize.simulation_int16 import by_bytes, held_to
from jaxmini.model import from_linen

NETS = {
    "residual": Residual(),
    "pre_activation": PreActivation(),
    "shared": Shared(),
    "depthwise": Bottlenecks(),
}


@functools.cache
def wide_net(name):
    """model, plan of 8 pictures, variables, pictures, frozen tree."""
    model, x = from_linen(NETS[name]), pictures(8)
    variables, model = start(model, x[:1]), quantize(model, int8(activation=observed(bits=16)))
    variables = calibrate(model, variables, [x])
    plan = make_plan(model, variables, x)
    return model, plan, variables, x, freeze(plan, variables)


@pytest.mark.parametrize("name", NETS)
def test_integers_are_what_training_saw(name):
    model, plan, variables, x, frozen = wide_net(name)
    grid = frozen.grids[plan.output_site]
    integers = simulator(plan, frozen)(x)
    assert integers.dtype == np.int16
    fake = np.asarray(jax.jit(model.apply)(variables, x)[0]) / np.float64(grid.scale)
    # Kernels multiply by numbers of 15 bits: a part in 2**16 of the largest at every layer.
    assert np.abs(integers - fake).max() <= 12
    assert np.ptp(integers.astype(int)) > 30_000


@pytest.mark.parametrize("name", NETS)
def test_every_group_is_within_its_multipliers_of_floats(name):
    """On integers of the network's own, beside what its groups round in float."""
    _, plan, _, x, frozen = wide_net(name)
    values = evaluate_all(plan, Dequantized(plan, frozen), x)
    steps = {
        value: np.rint(
            np.float64(array) / np.float64(frozen.grids[plan.site_of[value]].scale)
        ).astype(int)
        for value, array in values.items()
    }
    for group in plan.groups:
        operands = {v: steps[v] for v in group.inputs if not plan.is_constant(v)}
        (found,) = simulate_group(plan, frozen, group, operands)
        np.testing.assert_allclose(found, steps[group.outputs[0]], atol=2, rtol=2**-15)


def test_bytes_add_up_where_float32_would_not():
    values = np.full((3, 515), 32767)
    values[1] = -32768
    values[2, ::2] = -1

    def linear(part):  # sums below 2**24
        return np.asarray(jnp.sum(part * 127, axis=1)).astype(np.int64)

    total = by_bytes(linear, values)
    np.testing.assert_array_equal(total, values.sum(1) * 127)
    assert int(np.float32(total[0])) != total[0]


def test_rectifiers_hold_to_their_integers():
    grid = wide_net("depthwise")[4].grids[INPUT]
    grid = type(grid)(np.float32(6 / 30000), np.int32(0), 16)
    assert held_to(None, grid) == (-32768, 32767)
    plan = wide_net("depthwise")[1]
    clamp = next(g.clamp for g in plan.weighted if g.clamp is not None)
    assert clamp.high == 6
    assert held_to(clamp, grid) == (0, 30000)
    assert held_to(clamp, type(grid)(np.float32(1e-4), np.int32(0), 16)) == (0, 32767)
    assert held_to(type(clamp)(), grid) == (0, 32767)


def test_integers_and_floats_are_one_input():
    _, plan, _, x, frozen = wide_net("residual")
    scale = np.float32(frozen.grids[INPUT].scale)
    integers = np.clip(np.rint(np.asarray(x) / scale), -32768, 32767).astype(np.int16)
    np.testing.assert_array_equal(
        simulate(plan, frozen, integers), simulate(plan, frozen, integers * scale)
    )


def test_it_cannot_be_traced():
    _, plan, _, x, frozen = wide_net("residual")
    with pytest.raises(TypeError, match=r"simulated in NumPy: .*simulator\(plan, frozen\)"):
        jax.jit(functools.partial(simulate, plan, frozen))(x)
