"""Stored: what quantization keeps beside the user's variables comes back, and fits the plan or is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import planned

from jaxmini.compress.quantize import lsq, lsq_per_channel, lsq_per_tensor, lsq_plus, per_channel
from jaxmini.compress.quantize.oscillation import unseen as no_history
from jaxmini.compress.quantize.stored import (
    OWN,
    KernelState,
    Stored,
    floats_of,
    fresh,
    in_force,
    kernel_starts,
)
from jaxmini.model import FIGURES, PENALTIES

PLAIN = planned(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], a=(4, 3), b=(3, 2))
PLAN = dataclasses.replace(
    PLAIN,
    activations={"input": lsq_plus(), ":dense": lsq()},
    kernels={":dense": lsq_per_channel(bits=4), ":dense_1": lsq_per_tensor(bits=4)},
)
RNG = np.random.default_rng(0)
FLOATS = {
    "params": {
        name: RNG.normal(size=s).astype(np.float32) for name, s in (("a", (4, 3)), ("b", (3, 2)))
    },
    "batch_stats": {"mean": np.zeros(3, np.float32)},
}
PARAMETERS = {"params": FLOATS["params"]}
RANGES = {
    site: {"low": jnp.float32(-1), "high": jnp.float32(2)}
    for site in ("input", ":dense", ":dense_1")
}


def begun(plan=PLAN, **flags) -> Stored:
    flags = {"counts": False, "remembers": False, "holds": False} | flags
    return fresh(plan, PARAMETERS, **flags)


def known(stored: Stored) -> Stored:
    return stored._replace(starts=kernel_starts(PLAN, PARAMETERS))


def test_a_plain_scheme_keeps_nothing():
    stored = begun(PLAIN)
    assert stored == Stored({}, {}, {}, {}, {})
    assert stored.into(FLOATS) == FLOATS
    stored.check(PLAIN)


def test_what_is_learned_starts_at_zero_of_the_shapes_it_is_added_to():
    stored = begun()
    assert {site: set(added) for site, added in stored.activations.items()} == {
        "input": {"scale", "offset"},
        ":dense": {"scale"},
    }
    assert {name: added.shape for name, added in stored.kernels.items()} == {
        ":dense": (3,),
        ":dense_1": (),
    }
    assert {name: start.shape for name, start in stored.starts.items()} == {
        ":dense": (3,),
        ":dense_1": (2,),
    }
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((stored.activations, stored.kernels)))
    assert all(np.isnan(start).all() for start in stored.starts.values())
    assert (stored.clock, stored.histories) == ({}, {})
    more = begun(counts=True, remembers=True, holds=True)
    assert more.histories.keys() == {":dense", ":dense_1"}
    assert jax.tree.structure(more.clock) != jax.tree.structure(begun(counts=True).clock)


def test_what_goes_into_variables_comes_out_of_them():
    stored = known(begun(counts=True, remembers=True, holds=True))
    variables = stored.into(FLOATS)
    assert set(variables) - set(FLOATS) == {"quant_kernels", "quant_schedule", "quant_oscillation"}
    again = Stored.of(variables)
    assert jax.tree.structure(again) == jax.tree.structure(stored)
    jax.tree.map(np.testing.assert_array_equal, again, stored)
    assert floats_of(variables) == FLOATS
    assert "quant" not in FLOATS["params"]  # the user's own tree is left alone
    # Whatever was there before is replaced, nothing of it stays.
    assert begun(PLAIN).into(variables) == FLOATS


def test_the_users_variables_are_those_of_no_quantization():
    variables = {**known(begun()).into(FLOATS), **{name: {} for name in OWN}}
    assert set(variables) >= {PENALTIES, FIGURES}
    assert floats_of(variables) == FLOATS
    assert floats_of({"batch_stats": {}}) == {"batch_stats": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": {}}, r"of sites does not fit the model: :dense, input \(2 in all\)"),
        ({"kernels": {":dense": np.zeros(3)}}, r"of kernels .*: :dense_1 \(1 in all\)"),
        ({"starts": {}}, r"of kernels .*: :dense, :dense_1 \(2 in all\)"),
    ],
)
def test_what_does_not_fit_is_named_with_the_way_out(change, message):
    with pytest.raises(ValueError, match=message + ": call calibrate"):
        begun()._replace(**change).check(PLAN)
    begun().check(PLAN)


def test_a_learned_scale_is_its_start_and_what_was_added():
    stored = known(begun())
    stored = stored._replace(kernels={**stored.kernels, ":dense": np.float32([1, 2, 3])})
    start = stored.starts[":dense"]
    np.testing.assert_allclose(stored.step(":dense", start), start + np.float32([1, 2, 3]))
    assert begun(PLAIN).step(":dense", None) is None
    grids, states = in_force(PLAN, {**stored.into(FLOATS), "quant": RANGES})
    assert set(grids) == set(RANGES)
    np.testing.assert_allclose(states[":dense"].step, start + np.float32([1, 2, 3]))
    assert states[":dense"].history is None


def test_a_scale_without_a_start_is_refused_where_it_is_a_number():
    variables = {**begun().into(FLOATS), "quant": RANGES}
    with pytest.raises(ValueError, match="the learned scale of ':dense' has no start yet"):
        in_force(PLAN, variables)
    jax.make_jaxpr(lambda variables: in_force(PLAN, variables)[0])(variables)  # not known there


def test_a_kernel_is_rounded_with_its_history():
    kernel, bias = jnp.float32([[1.0, -2.54], [0.2, 1.0]]), jnp.zeros(2)
    rounding, wide = per_channel(), jnp.float32(1e3)
    same, scale = KernelState().prepare(rounding, kernel, bias, wide)
    assert same is kernel
    np.testing.assert_allclose(scale, [1 / 127, 2.54 / 127], rtol=1e-6)
    history = no_history(kernel.shape)
    history["integers"] = jnp.int8([[5, 5], [5, 5]])
    history["is_frozen"] = jnp.array([[False, True], [False, False]])
    held, _ = KernelState(None, history).prepare(rounding, kernel, bias, wide)
    np.testing.assert_allclose(held, [[1.0, 5 * 2.54 / 127], [0.2, 1.0]], rtol=1e-6)
