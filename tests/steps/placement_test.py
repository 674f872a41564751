"""Placement does not change the mathematics: every kind of step on 1, 2, 4, 8 devices, jit and pmap."""

from itertools import product

import jax
import numpy as np
import pytest

from benchmarks.placement import (
    DEVICES,
    KINDS,
    TOLERANCE,
    after_updates,
    apart,
    batches,
    case,
    reference,
)
from jaxmini import steps
from jaxmini.steps import placement

# What the quick tests have of it: every kind, both placements. One device under jit is the reference.
QUICK = {
    "contrastive": {("jit", 2), ("pmap", 1)},
    "distillation": {("pmap", 4)},
    "quantized": {("jit", 2), ("pmap", 8)},
    "learned": {("jit", 4)},
}
CASES = [
    pytest.param(
        devices,
        name,
        kind,
        id=f"{devices}-{name}-{kind}",
        marks=() if (name, devices) in QUICK[kind] else pytest.mark.slow,
    )
    for devices, name, kind in product(DEVICES, placement.PLACEMENTS, KINDS)
]


@pytest.mark.parametrize(("devices", "name", "kind"), CASES)
def test_same_parameters_everywhere(kind: str, name: str, devices: int):
    assert after_updates(kind, name, devices).keys() == reference(kind).keys()
    assert apart(kind, name, devices) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_updates_moved_the_parameters(kind: str):
    """What the matrix compares must not be the initial values."""
    _, _, variables, _ = case(kind)
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables["params"])
    first = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    moved = [
        np.abs(value - first[path.removeprefix("[0]")]).max()
        for path, value in reference(kind).items()
        if path.startswith("[0]") and "kernel" in path
    ]
    assert moved
    assert min(moved) > 1e-5


def test_a_step_is_pure():
    step, optimizer, variables, frozen = case("contrastive")
    state, batch = steps.start(optimizer, jax.random.key(2), variables), batches()[0]
    run = jax.jit(step)
    first, again = run(state, frozen, batch), run(state, frozen, batch)
    for a, b in zip(
        jax.tree.leaves(first[0].params), jax.tree.leaves(again[0].params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_a_batch_that_does_not_divide_is_refused(name: str):
    placed = placement.PLACEMENTS[name](lambda state, frozen, batch: (state, {}), jax.devices()[:3])
    with pytest.raises(ValueError, match="batch_size 16 does not divide among 3 devices.*15"):
        placed.shard(batches()[0])


def test_the_first_state_survives_the_donation_of_its_copy():
    step, optimizer, variables, frozen = case("contrastive")
    placed = placement.jit(step, jax.devices()[:2])
    state = steps.start(optimizer, jax.random.key(2), variables)
    placed.step(placed.replicate(state), frozen, placed.shard(batches()[0]))
    for leaf in jax.tree.leaves(state.params):
        assert np.isfinite(leaf).all()
