"""Leaves: which variable stands behind a kernel and a bias, and what to write there; or why there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantize_functions import planned

from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.leaves import (
    Leaves,
    Shift,
    UnreachableError,
    replaced,
    unfolded_kernel,
    unfolded_shift,
)
from jaxmini.compress.quantize.plan import Plan, Weighted

RNG = np.random.default_rng(0)
# In the order of jax.tree.leaves: sorted names.
SHAPES = {"beta": (3,), "gamma": (3,), "kernel": (4, 3), "mean": (3,), "var": (3,)}
BETA, GAMMA, KERNEL, MEAN, VAR = range(5)


def norm(p, x):
    """A product and BatchNorm as linen writes it."""
    y = x @ p["kernel"] - p["mean"][None]
    return y * (jax.lax.rsqrt(p["var"][None] + 1e-3) * p["gamma"][None]) + p["beta"][None]


def first(function, **shapes) -> tuple[Plan, Weighted]:
    plan = planned(function, **shapes)
    return plan, plan.weighted[0]


def test_batch_norms_gamma_and_beta_are_what_is_changed():
    plan, group = first(norm, **SHAPES)
    leaves = Leaves(plan)
    assert leaves.kernel(group) == KERNEL
    assert leaves.scalings(group) == (BETA, GAMMA)
    assert leaves.shift(group) == Shift(BETA, 1, ())


def test_without_batch_norm_it_is_the_kernel_and_the_bias():
    plan, group = first(lambda p, x: x @ p["kernel"] + p["bias"][None], bias=(3,), kernel=(4, 3))
    assert Leaves(plan).scalings(group) == (0, 1)
    assert Leaves(plan).shift(group) == Shift(0, 1, ())


def test_what_is_subtracted_is_changed_the_other_way():
    plan, group = first(lambda p, x: (x @ p["w"] - p["a"][None]) / 2, a=(3,), w=(4, 3))
    shift = Leaves(plan).shift(group)
    assert (shift.leaf, shift.sign) == (0, -1)
    assert [step.name for step in shift.rest] == ["div"]
    plan, group = first(lambda p, x: p["a"][None] - x @ p["w"], a=(3,), w=(4, 3))
    assert Leaves(plan).shift(group) == Shift(0, 1, ())


REFUSED = {
    "a kernel used twice": (
        lambda p, x: x @ p["w"] + jnp.tanh(jnp.tanh(x) @ p["w"]),
        {"w": (4, 3)},
        "kernel",
        "the kernel of :dense is shared",
    ),
    "a kernel that is computed": (
        lambda p, x: x @ (2 * p["w"]),
        {"w": (4, 3)},
        "kernel",
        "is computed and no variable",
    ),
    "a scaling": (lambda p, x: x * p["g"][None], {"g": (4,)}, "kernel", "has no kernel"),
    "no bias": (lambda p, x: x @ p["w"], {"w": (4, 3)}, "shift", "it has no bias"),
    "one number for all channels": (
        lambda p, x: x @ p["w"] + p["b"],
        {"w": (4, 3), "b": ()},
        "scalings",
        "what :dense adds is shared or no variable",
    ),
    "a bias used twice": (
        lambda p, x: jnp.tanh(x @ p["w"] + p["b"][None]) + p["b"][None],
        {"w": (4, 3), "b": (3,)},
        "shift",
        "it has no bias",
    ),
    "a bias that is computed": (
        lambda p, x: x @ p["w"] + jnp.exp(p["b"])[None],
        {"w": (4, 3), "b": (3,)},
        "scalings",
        "what :dense adds is shared or no variable",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_reached_is_told(name):
    function, shapes, asked, message = REFUSED[name]
    plan, group = first(function, **shapes)
    with pytest.raises(UnreachableError, match=message):
        getattr(Leaves(plan), asked)(group)


def test_other_arrays_take_the_shape_and_dtype_of_the_old_and_the_rest_stays():
    variables = {
        "params": {"w": jnp.zeros((2, 3), jnp.bfloat16), "quant": {"kernels": {}}},
        "batch_stats": {"mean": jnp.zeros(3)},
        "quant": {"input": 1},
    }
    changed = replaced(variables, {1: np.arange(6.0)})
    w = changed["params"]["w"]
    assert (w.shape, w.dtype) == ((2, 3), jnp.bfloat16)
    np.testing.assert_array_equal(np.float32(w).ravel(), np.arange(6))
    assert changed["params"]["quant"] is variables["params"]["quant"]
    assert changed["batch_stats"] == {"mean": variables["batch_stats"]["mean"]}
    assert changed["quant"] == {"input": 1}
    assert not np.asarray(variables["params"]["w"]).any()


@given(st.integers(0, 999))
def test_what_is_written_back_folds_to_what_was_wanted(seed):
    """A kernel and a bias of a channel that BatchNorm silences cannot be had, and stay."""
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    params["var"] = np.square(params["var"]) + np.float32(0.1)
    params["gamma"][seed % 3] = 0
    plan, group = FOLDED
    before = Float(plan, {"params": params})
    kernel, bias = map(np.asarray, before.weight(group))
    wanted, more = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=3)
    shift = Leaves(plan).shift(group)
    variables = replaced(
        {"params": params},
        {
            KERNEL: unfolded_kernel(group, wanted, params["kernel"], before.values),
            BETA: params["beta"] + unfolded_shift(shift, group, more, before.values),
        },
    )
    after_kernel, after_bias = map(np.asarray, Float(plan, variables).weight(group))
    silent = params["gamma"] == 0
    np.testing.assert_allclose(after_kernel[:, ~silent], wanted[:, ~silent], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after_kernel[:, silent], kernel[:, silent])
    np.testing.assert_array_equal(
        np.asarray(variables["params"]["kernel"])[:, silent], params["kernel"][:, silent]
    )
    np.testing.assert_allclose(after_bias, bias + more, rtol=1e-4, atol=1e-4)


FOLDED = first(norm, **SHAPES)
