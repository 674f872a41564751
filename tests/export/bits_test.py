"""A plan's activations are those of a kind of file, or are refused with the remedy."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxmini.compress.quantize import int8, lsq, make_plan, observed
from jaxmini.compress.quantize.plan import Plan
from jaxmini.export.bits import require_bits, variant_of
from tests.export.conftest import SHAPE, Block, quantized


@functools.cache
def plan_of(scheme: int8) -> Plan:
    model, image = quantized(Block(), scheme), jnp.zeros((1, *SHAPE))
    return make_plan(model, jax.eval_shape(model.init, jax.random.key(0), image), image)


def test_each_variant_has_its_bits():
    for scheme, variant in ((int8(), "int8"), (int8(activation=observed(bits=16)), "int16x8")):
        assert variant_of(plan_of(scheme)) == variant
        require_bits(plan_of(scheme), variant)


@pytest.mark.parametrize(
    ("activation", "variant", "message"),
    [
        (observed(bits=16), "int8", "of 16 bits: export variant 'int16x8'"),
        (observed(), "int16x8", r"of 8 bits: export variant 'int8', .*observed\(bits=16\)"),
        (lsq(bits=4), "int8", "'Block/Conv_0:conv' has 4 .* train with activation=observed"),
    ],
)
def test_other_bits_are_refused(activation, variant: str, message: str):
    with pytest.raises(ValueError, match=message):
        require_bits(plan_of(int8(activation=activation)), variant)
