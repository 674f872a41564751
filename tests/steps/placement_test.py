"""Placement does not change the mathematics: every kind of step on 1, 2, 4, 8 devices, jit and pmap."""

import functools
from itertools import product

import jax
import numpy as np
import pytest

from jaxmini import data, losses, models, steps
from jaxmini.compress import quantize
from jaxmini.model import from_linen, with_head
from jaxmini.steps import placement

BATCH, UPDATES = 16, 3
# Relative to the largest number of a leaf: float32 sums in another order, three updates deep. A wrong
# gradient is off by a factor.
TOLERANCE = 1e-4
NORMALIZATION = data.Normalization(0.5, 0.25)
KINDS = ("contrastive", "distillation", "quantized", "learned")
# Scales that gradients move, a schedule and oscillations, all at once.
LEARNED = quantize.int8(
    activation=quantize.lsq_plus(),
    kernel=quantize.lsq_per_channel(bits=4),
    rules=(quantize.rule("*stem*", activation=quantize.pact(l2=0.01)),),
    schedule=quantize.phases(start=1, freeze=2),
    oscillation=quantize.dampening(strength=0.01),
)


def batches() -> list[dict[str, np.ndarray]]:
    split = data.digits().load().train
    return [data.batch_at(split, BATCH, seed=0, step=step) for step in range(UPDATES)]


def inputs(key, batch, view_index):
    view = data.shift(2)  # random, and cheap to compile 24 times
    pictures = (batch["image"], batch["id"], batch["epoch"])
    return data.apply_views(view, NORMALIZATION, key, view_index, *pictures)


@functools.cache
def case(kind: str):
    """(step, optimizer, first variables, frozen) of a kind, on real pictures and small real nets."""
    images = NORMALIZATION(batches()[0]["image"])
    optimizer = steps.sgd(0.05)(UPDATES)
    net = functools.partial(
        models.small_resnet, stem_width=8, stem_stride=1, widths=(8,), zero_gamma=False
    )
    key = jax.random.key(0)
    if kind == "contrastive":
        model = with_head(net(), models.projection_head(8))
        step = steps.contrastive(model, losses.nt_xent(temperature=0.5), optimizer, inputs=inputs)
        return step, optimizer, jax.jit(model.init)(key, images), {}
    student, teacher = from_linen(net(10)), from_linen(net(10, blocks=2))
    variables = jax.jit(student.init)(key, images)
    frozen = jax.jit(teacher.init)(jax.random.key(1), images)
    loss = 0.9 * losses.kl(temperature=2.0) + 0.1 * losses.cross_entropy()
    if kind in ("quantized", "learned"):
        scheme = quantize.int8() if kind == "quantized" else LEARNED
        student = quantize.quantize(student, scheme)
        variables = quantize.calibrate(student, variables, [images])
    return (
        steps.distill(student, teacher, loss, optimizer, inputs=inputs),
        optimizer,
        variables,
        frozen,
    )


def after_updates(kind: str, name: str, devices: int) -> dict[str, np.ndarray]:
    step, optimizer, variables, frozen = case(kind)
    placed = placement.PLACEMENTS[name](step, jax.devices()[:devices])
    state = placed.replicate(steps.start(optimizer, jax.random.key(2), variables))
    frozen = placed.replicate(frozen)
    for batch in batches():
        state, metrics = placed.step(state, frozen, placed.shard(batch))
    assert np.isfinite(metrics["loss"])
    assert int(state.step) == UPDATES
    leaves, _ = jax.tree_util.tree_flatten_with_path((state.params, state.collections))
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in leaves}


@functools.cache
def reference(kind: str) -> dict[str, np.ndarray]:
    return after_updates(kind, "jit", 1)


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
    for devices, name, kind in product((1, 2, 4, 8), placement.PLACEMENTS, KINDS)
]


@pytest.mark.parametrize(("devices", "name", "kind"), CASES)
def test_same_parameters_everywhere(kind: str, name: str, devices: int, record_property):
    expected, got = reference(kind), after_updates(kind, name, devices)
    assert expected.keys() == got.keys()
    error = max(
        np.abs(got[path] - expected[path]).max() / max(np.abs(expected[path]).max(), 1e-2)
        for path in expected
    )
    record_property("error", float(error))
    print(f"placement {kind:12} {name:4} {devices} devices: relative error {error:.1e}")
    assert error < TOLERANCE


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
