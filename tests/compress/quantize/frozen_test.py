"""Frozen: integers by hand, the numbers they stand for, and a tree that comes back from arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import alone, planned

from jaxmini.compress.quantize import Frozen, Grid, freeze, per_channel, per_tensor
from jaxmini.compress.quantize.evaluate import evaluate
from jaxmini.compress.quantize.frozen import (
    Dequantized,
    FrozenConstant,
    FrozenKernel,
    _frozen_kernel,
    _once,
    operand_name,
)

GRID = Grid(np.float32(0.5), np.int32(-3))
KERNEL = FrozenKernel(
    np.int8([[1, -127], [0, 64]]), np.float32([0.5, 0.25]), np.int32([3, -8]), np.float32(2), 4
)
TREE = Frozen(
    {"input": GRID, "Net/block:conv": Grid(np.float32(0.25), np.int32(127))},
    {"Net/block:conv": KERNEL},
    {"Net:add#1": FrozenConstant(np.int8([[5, -128]]), GRID)},
    {"Net/norm:norm#0": np.float32([1, 2])},
)


def test_integers_stand_for_numbers():
    np.testing.assert_array_equal(KERNEL.float_kernel, [[0.5, -31.75], [0, 16]])
    np.testing.assert_array_equal(KERNEL.float_bias, [3.0, -4.0])
    np.testing.assert_array_equal(TREE.constants["Net:add#1"].float_values, [[4.0, -62.5]])
    assert KERNEL.float_kernel.dtype == KERNEL.float_bias.dtype == np.float32


def test_a_large_bias_is_exact_to_the_last_bit_of_float32():
    """In float32 alone an int32 above 2**24 would be rounded before it is scaled, and again after."""
    wide = FrozenKernel(np.int8([[1]]), np.float32([0.1]), np.int32([2**30 - 1]), np.float32(0.3))
    exact = (2**30 - 1) * float(np.float32(0.3)) * float(np.float32(0.1))
    np.testing.assert_array_equal(wide.float_bias, np.float32([exact]))


def test_arrays_hold_the_whole_tree():
    again = Frozen.from_arrays(TREE.arrays())
    assert again.grids == TREE.grids
    assert again.arrays().keys() == TREE.arrays().keys()
    for name, array in TREE.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)
    assert again.kernels["Net/block:conv"].bits == 4
    assert type(again.kernels["Net/block:conv"].bits) is int
    # A tree of before kernels had bits has eight.
    old = {name: array for name, array in TREE.arrays().items() if not name.endswith("/bits")}
    assert Frozen.from_arrays(old).kernels["Net/block:conv"].bits == 8


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weights": 0}, "the array 'weights' is no part"),
        ({"grids/scale": 0}, "the array 'grids/scale' is no part"),
        ({"weights/a/scale": 0}, "'weights/a/scale' is no part"),
        ({"grids/input/scale": 0}, r"grids/input holds scale, .*zero_point"),
        ({"grids/input/scale": 0, "grids/input/zero_point": 0, "grids/input/x": 0}, "grids/input"),
        ({"kernels/Net:a/kernel": 0}, r"kernels/Net:a holds kernel, .*bias"),
        ({"constants/a#1/scale": 0, "constants/a#1/zero_point": 0}, "constants/a#1 holds .*values"),
        ({"floats/a#0/numbers": 0}, "floats/a#0 holds numbers"),
    ],
)
def test_arrays_of_something_else_are_refused(arrays, message):
    with pytest.raises(ValueError, match=f"Frozen: .*{message}"):
        Frozen.from_arrays(arrays)


def test_a_kernel_is_rounded_to_even_and_held_to_its_bits():
    kernel = np.float32([[0.5, 1.5, -2.5, 9, -9]]).T * np.float32([[1, 0.5]])
    bias, scale = np.float32([3, -1]), np.float32([1, 0.5])
    frozen = _frozen_kernel(per_channel(bits=4), kernel, bias, scale, np.float32(0.25))
    np.testing.assert_array_equal(frozen.kernel, np.repeat([[0, 2, -2, 7, -7]], 2, 0).T)
    np.testing.assert_array_equal(frozen.bias, [12, -8])
    assert (frozen.kernel.dtype, frozen.bias.dtype, frozen.bits) == (np.int8, np.int32, 4)
    assert per_tensor().limit == 127


def test_what_is_repeated_for_each_example_is_frozen_once():
    row = np.arange(3.0)
    np.testing.assert_array_equal(_once(np.tile(row, (4, 1))), row[None])
    for kept in (row, row[None], np.stack([row, -row]), np.ones(5)):
        assert _once(kept) is kept


PLAN = planned(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"][None]), w=(4, 3), b=(3,))
RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(4, 3)).astype(np.float32), "b": np.float32([0.5, -1, 2])}
RANGES = {
    "input": {"low": np.float32(-2), "high": np.float32(3)},
    ":dense": {"low": np.float32(0), "high": np.float32(5)},
}


def test_freezing_settles_every_number_of_a_plan():
    frozen = freeze(PLAN, {"params": PARAMS, "quant": RANGES})
    assert set(frozen.grids) == set(PLAN.sites)
    kernel = frozen.kernels[":dense"]
    scale = np.abs(PARAMS["w"]).max(0) / 127
    np.testing.assert_allclose(kernel.scale, scale, rtol=1e-6)
    np.testing.assert_array_equal(kernel.kernel, np.round(PARAMS["w"] / kernel.scale))
    step = kernel.scale.astype(np.float64) * frozen.grids["input"].scale
    np.testing.assert_array_equal(kernel.bias, np.round(PARAMS["b"] / step))
    assert kernel.input_scale == frozen.grids["input"].scale
    # Its numbers in floating point are the network of its integers.
    x = np.float32(RNG.normal(size=(2, 4)))
    grid = frozen.grids["input"]
    steps = np.clip(np.round(x / grid.scale) + grid.zero_point, -128, 127) - grid.zero_point
    total = np.maximum(steps @ kernel.kernel.astype(np.float64) + kernel.bias, 0) * step
    out = frozen.grids[":dense"]
    expected = np.clip(np.round(total / out.scale) + out.zero_point, -128, 127) - out.zero_point
    actual = evaluate(PLAN, Dequantized(PLAN, frozen), jnp.asarray(x))
    np.testing.assert_allclose(actual, expected * out.scale, atol=1e-5)


def test_a_constant_is_repeated_by_numpy():
    """The whole table stands in a program, and no operation that repeats it."""
    plan = planned(alone(lambda x: jnp.concatenate([x, jnp.ones((2, 1, 4))], 1)), (2, 3, 4))
    (group,) = plan.groups
    values = FrozenConstant(np.full((1, 1, 4), 7, np.int8), GRID)
    frozen = Frozen({"input": GRID}, {}, {operand_name(group, 1): values})
    made = jax.make_jaxpr(lambda: Dequantized(plan, frozen).constant(group, 1))()
    assert [v.aval.shape for v in made.jaxpr.outvars] == [(2, 1, 4)]
    assert "broadcast_in_dim" not in {equation.primitive.name for equation in made.eqns}
