"""Packing: which kernels a file can store two to a byte, by what a group is."""

import pytest
from quantize_nets import PreActivation, Residual, pictures, start

from jaxmini.compress.quantize import int8, make_plan, observed, quantize, weights_only
from jaxmini.compress.quantize.packing import is_packable, stored_bytes
from jaxmini.model import from_linen


def packable(module, scheme):
    x, model = pictures(2), from_linen(module)
    plan = make_plan(quantize(model, scheme), start(model, x), x)
    return {g.name.partition("/")[2]: is_packable(plan, g) for g in plan.weighted}


def test_depthwise_kernels_and_factors_stay_int8():
    assert packable(Residual(), int8()) == {
        "stem:conv": True,
        "depthwise:conv": False,
        "pointwise:conv": True,
        "head:dense": True,
    }
    found = packable(PreActivation(), int8())
    assert {name for name, can in found.items() if not can} == {
        "BatchNorm_0:scale",
        "BatchNorm_1:scale",
    }


@pytest.mark.parametrize(
    ("scheme", "all_of_them"), [(weights_only(), True), (int8(activation=observed(bits=16)), False)]
)
def test_float_operators_widen_any_kernel_and_int16_knows_none(scheme, all_of_them):
    assert set(packable(Residual(), scheme).values()) == {all_of_them}


def test_bytes_of_every_number_of_bits():
    assert [stored_bytes(7, bits, packed=True) for bits in range(2, 9)] == [4, 4, 4, 7, 7, 7, 7]
    assert {stored_bytes(7, bits, packed=False) for bits in range(2, 9)} == {7}
