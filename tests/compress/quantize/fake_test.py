"""Fake quantization of a small plan: each rounding by hand in float64, and the ranges that training notes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from quantize_functions import alone, planned

from jaxmini.compress.quantize import Grid, per_tensor
from jaxmini.compress.quantize.evaluate import evaluate
from jaxmini.compress.quantize.fake import FakeQuant, Train
from jaxmini.compress.quantize.grid import covering
from jaxmini.compress.quantize.ranges import unseen

RNG = np.random.default_rng(0)
W, B = RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=3).astype(np.float32)
PARAMS = {"w": W, "b": B}
X = RNG.normal(size=(2, 4)).astype(np.float32)


def dense(p, x):
    return jax.nn.relu(x @ p["w"] + p["b"][None])


PLAN = planned(dense, w=(4, 3), b=(3,))
# Powers of two, so that nothing depends on how a division is rounded.
GRIDS = {
    "input": Grid(np.float32(2**-5), np.int32(3)),
    ":dense": Grid(np.float32(2**-5), np.int32(-128)),
}


def rounded(values, grid):
    steps = np.round(np.float64(values) / np.float64(grid.scale)) + grid.zero_point
    return (np.clip(steps, -128, 127) - grid.zero_point) * np.float64(grid.scale)


def by_hand(scale):
    """What the integers of the layer stand for, with a kernel on steps of ``scale`` [O]."""
    x, scale = rounded(X, GRIDS["input"]), np.float64(scale)
    kernel = np.round(W / scale) * scale
    step = scale * np.float64(GRIDS["input"].scale)
    return rounded(np.maximum(x @ kernel + np.round(B / step) * step, 0), GRIDS[":dense"])


def test_inference_rounds_input_kernel_bias_and_output():
    hooks = FakeQuant(PLAN, {"params": PARAMS}, GRIDS)
    expected = by_hand(np.abs(W).max(0) / 127)
    np.testing.assert_allclose(evaluate(PLAN, hooks, X), expected, atol=1e-6)
    shared = dataclasses.replace(PLAN, kernels={":dense": per_tensor(bits=3)})
    hooks = FakeQuant(shared, {"params": PARAMS}, GRIDS)
    expected = by_hand(np.full(3, np.abs(W).max() / 3))
    np.testing.assert_allclose(evaluate(shared, hooks, X), expected, atol=1e-6)


def test_training_rounds_on_known_ranges_and_notes_the_batch():
    known = {
        "input": {"low": jnp.float32(-1), "high": jnp.float32(2)},
        ":dense": unseen(PLAN)[":dense"],
    }
    hooks = Train(PLAN, {"params": PARAMS}, known)
    evaluate(PLAN, hooks, X)
    assert hooks.grids["input"] == covering(jnp.float32(-1), jnp.float32(2))
    assert hooks.seen["input"] == {"low": X.min(), "high": X.max()}
    # A site that has seen nothing rounds with what is at hand.
    seen = hooks.seen[":dense"]
    assert seen["low"] == 0
    assert seen["high"] > 0
    assert hooks.grids[":dense"] == covering(seen["low"], seen["high"])


def test_tied_tensors_are_noted_as_one():
    """What is joined lies on one grid, which spans both."""
    plan = planned(
        lambda p, x: jnp.concatenate([x @ p["w"], 10 * (x @ p["v"])], -1), w=(4, 3), v=(4, 3)
    )
    assert list(plan.ties) == [":dense"]
    hooks = Train(plan, {"params": {"w": W, "v": -W}}, unseen(plan))
    evaluate(plan, hooks, X)
    products = X @ W  # and rounded, of rounded numbers
    np.testing.assert_allclose(
        hooks.seen[":dense"]["low"], min(products.min(), (-10 * products).min()), rtol=0.02
    )
    np.testing.assert_allclose(
        hooks.seen[":dense"]["high"], max(products.max(), (-10 * products).max()), rtol=0.02
    )


def test_a_given_grid_is_neither_noted_nor_moved():
    plan = dataclasses.replace(PLAN, fixed={"input": GRIDS["input"]})
    hooks = Train(plan, {"params": PARAMS}, {":dense": unseen(PLAN)[":dense"]})
    evaluate(plan, hooks, 100 * X)
    assert hooks.grids["input"] == GRIDS["input"]
    assert list(hooks.seen) == [":dense"]


def test_a_constant_has_its_own_grid_and_a_joined_one_that_of_the_whole():
    table = np.float32([[[0.3, -1.27], [0.5, 0.004]]])
    added = planned(alone(lambda x: x + jnp.asarray(table)), table.shape)
    grids = {site: Grid(np.float32(2**-5), np.int32(0)) for site in added.sites}
    (group,) = added.groups
    position = next(i for i, value in enumerate(group.inputs) if added.is_constant(value))
    constant = FakeQuant(added, {"params": {}}, grids).constant(group, position)
    np.testing.assert_allclose(constant, np.round(table / 0.01) * 0.01, atol=1e-6)

    joined = planned(alone(lambda x: jnp.concatenate([x, jnp.asarray(table)], 1)), table.shape)
    (group,) = joined.groups
    grids = {site: Grid(np.float32(2**-5), np.int32(0)) for site in joined.sites}
    constant = FakeQuant(joined, {"params": {}}, grids).constant(group, 1)
    np.testing.assert_array_equal(constant, np.round(table * 32) / 32)


def test_gradients_pass_every_rounding():
    def loss(params):
        return evaluate(PLAN, FakeQuant(PLAN, {"params": params}, GRIDS), X).sum()

    grads = jax.grad(loss)(PARAMS)
    inside = np.float64(rounded(X, GRIDS["input"]) @ W + B > 0)
    np.testing.assert_allclose(grads["b"], inside.sum(0))
    np.testing.assert_allclose(grads["w"], rounded(X, GRIDS["input"]).T @ inside, rtol=1e-5)
