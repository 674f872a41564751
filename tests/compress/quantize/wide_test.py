"""Activations of 16 bits everywhere or nowhere, and only where kernels are proven."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_nets import Attention, Branches, Gates, PreActivation, Residual, pictures, start

from jaxmini.compress.quantize import (
    Grid,
    calibrate,
    freeze,
    int8,
    make_plan,
    observed,
    quantize,
    rule,
)
from jaxmini.compress.quantize.plan import INPUT
from jaxmini.model import from_linen

WIDE = int8(activation=observed(bits=16))


class OneOf(nn.Module):
    """A convolution, one more operation, a dense layer."""

    operation: object

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        return nn.Dense(3, name="head")(self.operation(x).reshape(x.shape[0], -1))


def plan_of(module, scheme=WIDE, **more):
    model, x = from_linen(module), pictures()
    return make_plan(quantize(model, scheme, **more), start(model, x), x)


def test_every_grid_is_wide_and_has_zero_point_0():
    model, x = from_linen(PreActivation()), pictures(8)
    twin = quantize(model, WIDE)
    variables = calibrate(twin, start(model, x), [x])
    plan = make_plan(twin, variables, x)
    frozen = freeze(plan, variables)
    assert plan.is_wide
    for grid in frozen.grids.values():
        assert (grid.bits, int(grid.zero_point)) == (16, 0)
    for kernel in frozen.kernels.values():
        assert (kernel.kernel.dtype, kernel.bias.dtype) == (np.int8, np.int64)
    (constant,) = frozen.constants.values()
    assert constant.values.dtype == np.int16
    assert np.abs(constant.values).max() == 32767
    again = type(frozen).from_arrays(frozen.arrays())
    assert {name: grid.bits for name, grid in again.grids.items()} == dict.fromkeys(plan.sites, 16)


def test_a_given_grid_of_pixels_keeps_its_scale():
    plan = plan_of(Residual(), input_grid=Grid(1 / 32, 5))
    grid = plan.fixed[INPUT]
    assert (float(grid.scale), int(grid.zero_point), grid.bits) == (1 / 32, 0, 16)


@pytest.mark.parametrize(
    "scheme",
    [
        int8(rules=(rule("head", activation=observed(bits=16)),)),
        int8(activation=observed(bits=16), rules=(rule("stem", activation=observed()),)),
        int8(activation=observed(bits=16), rules=(rule("stem", activation=observed(bits=4)),)),
    ],
)
def test_16_bits_in_part_are_refused(scheme):
    with pytest.raises(
        ValueError, match="of 16 bits in part, and these of other bits: '.*everywhere or nowhere"
    ):
        plan_of(Residual(), scheme)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (nn.sigmoid, "OneOf:sigmoid"),
        (jnp.tanh, "OneOf:tanh"),
        (nn.hard_swish, "OneOf:hard_swish"),
        (lambda x: nn.gelu(x, approximate=True), "OneOf:gelu"),
        (lambda x: nn.softmax(x), "OneOf:softmax"),
        (lambda x: x - x.transpose(0, 2, 1, 3), "OneOf:sub"),
        (lambda x: nn.relu(x) + x, "OneOf:relu"),
        (lambda x: jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=0.5), "OneOf:pad"),
        (lambda x: jnp.concatenate([x, x.transpose(0, 2, 1, 3)], -1), "OneOf:concat"),
        (lambda x: jnp.where(np.eye(12)[None, :, :, None] > 0, x, 0.5), "OneOf:where"),
    ],
)
def test_what_has_no_proven_kernel_is_refused_by_name(operation, name):
    with pytest.raises(ValueError, match="quantize: ") as error:
        plan_of(OneOf(operation))
    message = str(error.value)
    assert name in message
    assert "has no kernel that is proven" in message
    assert "give the network activations of 8 bits" in message
    plan_of(OneOf(operation), int8())


@pytest.mark.parametrize("module", [Attention(), Gates(), Branches()])
def test_networks_that_hold_such_are_refused_at_once(module):
    with pytest.raises(ValueError, match=f"{type(module).__name__}.*has no kernel that is proven"):
        plan_of(module)


def test_refused_at_init_before_any_training():
    model = quantize(from_linen(Gates()), WIDE)
    with pytest.raises(ValueError, match="has no kernel that is proven"):
        model.init(jax.random.key(0), pictures())
