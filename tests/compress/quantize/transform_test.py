"""A quantized model calibrates, trains, and is the same in every placement."""

import functools
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quantize_nets import Branches, PreActivation, Residual, pictures, start

from jaxmini.axis import AXIS
from jaxmini.compress.quantize import (
    Grid,
    calibrate,
    floats_of,
    freeze,
    int8,
    lsq,
    make_plan,
    observed,
    per_channel,
    per_tensor,
    quantize,
    rule,
    simulator,
)
from jaxmini.compress.quantize.evaluate import evaluate_all
from jaxmini.compress.quantize.fake import FakeQuant
from jaxmini.compress.quantize.ranges import is_seen
from jaxmini.compress.quantize.stored import in_force
from jaxmini.compress.quantize.transform import is_quantized
from jaxmini.model import from_linen, with_head


@pytest.fixture(scope="module")
def residual():
    model = from_linen(Residual())
    quantized = quantize(model)
    x = pictures(8)
    variables = {**quantized.init(jax.random.key(0), x), **start(model, x)}
    return model, quantized, variables, calibrate(quantized, variables, [x[:4], x[4:]])


def infer(model, variables, x):
    return jax.jit(model.apply)(variables, x)[0]


def steps(quantized, variables, x, count):
    train = jax.jit(functools.partial(quantized.apply, train=True))
    for _ in range(count):
        variables = {**variables, **train(variables, x)[1]}
    return variables


def test_init_adds_ranges_that_have_seen_nothing(residual):
    model, quantized, _, _ = residual
    x = pictures()
    variables = quantized.init(jax.random.key(0), x)
    assert set(variables) == {"params", "batch_stats", "quant"}
    assert tuple(variables["quant"]) == make_plan(model, start(model, x), x).observed
    assert not any(map(is_seen, variables["quant"].values()))


def test_calibration_holds_all_batches(residual):
    model, _, variables, calibrated = residual
    x = pictures(8)
    assert calibrated["quant"]["input"]["low"] == x.min()
    assert calibrated["quant"]["input"]["high"] == x.max()
    logits = infer(model, {k: v for k, v in variables.items() if k != "quant"}, x)
    seen = calibrated["quant"]["Residual/head:dense"]
    np.testing.assert_allclose(seen["low"], min(0, logits.min()), rtol=1e-5)
    np.testing.assert_allclose(seen["high"], max(0, logits.max()), rtol=1e-5)
    assert calibrated["quant"]["Residual/stem:conv"]["low"] == 0


@pytest.mark.parametrize("module", [Residual(), Branches(), PreActivation()])
def test_rounded_logits_are_near_the_float_ones(module):
    model, x = from_linen(module), pictures(8)
    quantized = quantize(model)
    variables = start(model, x)
    calibrated = calibrate(quantized, variables, [x])
    expected = infer(model, variables, x)
    logits, updates = jax.jit(quantized.apply)(calibrated, x)
    assert updates == {}
    difference = np.abs(logits - expected)
    assert 0 < difference.max() < 0.1 * np.ptp(expected)


def test_training_moves_ranges_and_nothing_else(residual):
    _, quantized, _, calibrated = residual
    x, train = 2 * pictures(8), jax.jit(functools.partial(quantized.apply, train=True))
    logits, updates = train(calibrated, x, key=jax.random.key(0))
    assert set(updates) == {"quant"}
    low, high = (calibrated["quant"]["input"][end] for end in ("low", "high"))
    moved = updates["quant"]["input"]
    np.testing.assert_allclose(moved["low"], 0.99 * low + 0.01 * x.min(), rtol=1e-5)
    np.testing.assert_allclose(moved["high"], 0.99 * high + 0.01 * x.max(), rtol=1e-5)
    # The forward pass of training is that of inference: same grids, no dropout, running statistics.
    np.testing.assert_allclose(logits, infer(quantized, calibrated, x), atol=1e-6)


def test_momentum_one_keeps_calibrated_ranges(residual):
    model, _, _, calibrated = residual
    quantized = quantize(model, int8(momentum=1.0))
    _, updates = quantized.apply(calibrated, 9 * pictures(8), train=True)
    assert updates == {"quant": calibrated["quant"]}


def test_training_can_start_without_calibration(residual):
    _, quantized, variables, calibrated = residual
    x = pictures(8)
    trained = steps(quantized, variables, x, 1)
    for end in ("low", "high"):
        np.testing.assert_allclose(
            trained["quant"]["Residual/stem:conv"][end],
            calibrated["quant"]["Residual/stem:conv"][end],
            rtol=0.1,
            atol=0.02,
        )
    assert np.all(np.isfinite(infer(quantized, trained, x)))


def test_ranges_that_saw_nothing_are_refused_by_inference(residual):
    _, quantized, variables, _ = residual
    with pytest.raises(ValueError, match="7 of 7 ranges have never seen data, .* call calibrate"):
        quantized.apply(variables, pictures())


def test_ranges_of_another_model_are_refused(residual):
    _, quantized, _, calibrated = residual
    wrong = {**calibrated, "quant": {"Net:add": calibrated["quant"]["input"]}}
    for train in (False, True):
        with pytest.raises(ValueError, match="sites unknown \\['Net:add'\\]"):
            quantized.apply(wrong, pictures(), train=train)
    del wrong["quant"]
    with pytest.raises(ValueError, match="no 'quant'"):
        quantized.apply(wrong, pictures())


@pytest.mark.parametrize(
    "kernel", [per_channel(), per_channel(bits=4, mse=True), per_tensor(bits=3)]
)
def test_a_loss_falls(residual, kernel):
    model, _, _, calibrated = residual
    quantized, x, labels = quantize(model, int8(kernel=kernel)), pictures(8), jnp.arange(8) % 5
    collections = {name: tree for name, tree in calibrated.items() if name != "params"}
    optimizer = optax.sgd(0.1)

    def loss(params, collections):
        logits, updates = quantized.apply({"params": params, **collections}, x, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

    @jax.jit
    def step(params, collections, state):
        (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(params, collections)
        change, state = optimizer.update(grads, state)
        return optax.apply_updates(params, change), {**collections, **updates}, state, value, grads

    params = calibrated["params"]
    state, values = optimizer.init(params), []
    for _ in range(40):
        params, collections, state, value, grads = step(params, collections, state)
        values.append(float(value))
    assert values[-1] < 0.6 * values[0]
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))
    assert jax.tree.all(
        jax.tree.map(np.array_equal, collections["batch_stats"], calibrated["batch_stats"])
    )


def test_pmap_is_one_device(residual):
    _, quantized, variables, _ = residual
    x = pictures(8)

    def train(variables, x):
        logits, updates = quantized.apply(variables, x, train=True)
        return logits, {**variables, **updates}

    mapped = jax.pmap(train, axis_name=AXIS, in_axes=(None, 0), out_axes=(0, None))
    alone, together = jax.jit(train), variables
    single = variables
    for _ in range(2):
        logits, single = alone(single, x)
        shards, together = mapped(together, x.reshape(4, 2, *x.shape[1:]))
        np.testing.assert_allclose(shards.reshape(logits.shape), logits, atol=1e-5)
    for site, known in single["quant"].items():
        for end in known:
            np.testing.assert_allclose(
                together["quant"][site][end], known[end], rtol=1e-5, atol=1e-6
            )


def test_vmap_over_models(residual):
    _, quantized, _, calibrated = residual
    x = pictures(8)
    scaled = jax.tree.map(lambda leaf: 1.1 * leaf, calibrated)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), calibrated, scaled)
    logits = jax.vmap(lambda variables: infer(quantized, variables, x))(both)
    for row, variables in zip(logits, (calibrated, scaled), strict=True):
        np.testing.assert_allclose(row, infer(quantized, variables, x), atol=1e-5)


def test_tied_branches_share_one_range():
    model, x = from_linen(Branches()), pictures(8)
    quantized, variables = quantize(model), start(model, x)
    calibrated = calibrate(quantized, variables, [x])
    plan = make_plan(model, variables, x)
    assert set(calibrated["quant"]) == set(plan.sites)
    assert "Branches:sub" not in plan.sites
    assert calibrated["quant"]["Branches/second:conv"]["low"] < 0  # relu6 alone would give 0
    trained = steps(quantized, quantized.init(jax.random.key(0), x) | variables, x, 1)
    assert trained["quant"]["Branches/second:conv"]["low"] < 0


def test_a_given_grid_is_taken(residual):
    model, _, variables, _ = residual
    quantized, x = quantize(model, input_grid=Grid(2.0, 0)), pictures(8)  # coarse, to be seen
    calibrated = calibrate(quantized, variables, [x])
    assert "input" not in calibrated["quant"]
    on_grid = infer(quantized, calibrated, 2 * jnp.round(x / 2))
    np.testing.assert_allclose(infer(quantized, calibrated, x), on_grid, atol=1e-6)


def test_a_model_is_quantized_once(residual):
    _, quantized, _, _ = residual
    assert is_quantized(quantized)
    with pytest.raises(ValueError, match="quantized already"):
        quantize(quantized)
    headed = quantize(with_head(quantized, nn.Dense(2)))
    with pytest.raises(ValueError, match="a part of the model is quantized already"):
        headed.init(jax.random.key(0), pictures())


def test_bad_settings_are_refused(residual):
    model, _, variables, _ = residual
    with pytest.raises(ValueError, match="momentum is 2, expected 0..1"):
        int8(momentum=2)
    with pytest.raises(ValueError, match="expected a scale > 0"):
        quantize(model, input_grid=Grid(0.0, 0))
    with pytest.raises(ValueError, match="integer zero point"):
        quantize(model, input_grid=Grid(1.0, 0.5))
    with pytest.raises(
        TypeError, match=r"input_grid is \(0\.1, 3\), expected a Grid, Grid\(scale=0\.1"
    ):
        quantize(model, input_grid=(0.1, 3))
    with pytest.raises(TypeError, match=r"expected a Model, got Dense; .* is from_linen\(module\)"):
        quantize(nn.Dense(3))
    with pytest.raises(ValueError, match="give it quantize"):
        calibrate(model, variables, [pictures()])
    with pytest.raises(ValueError, match="calibrate: there are no pictures to see"):
        calibrate(quantize(model), variables, [])


def test_a_quantized_model_prints_and_pickles(residual):
    model, _, _, calibrated = residual
    quantized = quantize(model, int8(momentum=0.9), input_grid=Grid(0.05, 3))
    assert "int8(momentum=0.9)" in repr(quantized)
    copy = pickle.loads(pickle.dumps(quantized))
    x = pictures(8)
    variables = calibrate(quantized, calibrated, [x])
    np.testing.assert_array_equal(infer(copy, variables, x), infer(quantized, variables, x))


OTHER_BITS = (
    int8(activation=observed(bits=4)),
    int8(activation=lsq(bits=3), momentum=0.9),
    int8(activation=observed(bits=5), rules=(rule("head", activation=observed()),)),
    int8(activation=observed(bits=16)),
)


@pytest.mark.parametrize("scheme", OTHER_BITS, ids=["4", "lsq 3", "5 and 8", "16"])
def test_activations_of_other_bits_train_freeze_and_are_simulated(residual, scheme):
    model, quantized, x = residual[0], quantize(residual[0], scheme), pictures(8)
    variables = calibrate(quantized, start(model, x), [x])
    plan = make_plan(quantized, variables, x)

    def loss(params):
        logits, _ = quantized.apply({**variables, "params": params}, x, train=True)
        return jnp.mean(jnp.square(logits))

    for path, grad in jax.tree_util.tree_leaves_with_path(
        jax.jit(jax.grad(loss))(variables["params"])
    ):
        assert np.all(np.isfinite(grad)), path
        assert np.any(grad), path
    frozen = freeze(plan, variables)
    hooks = FakeQuant(plan, floats_of(variables), *in_force(plan, variables))
    values = jax.jit(lambda x: evaluate_all(plan, hooks, x))(x)
    for value, array in values.items():
        site, bits = plan.site_of[value], frozen.grids[plan.site_of[value]].bits
        assert bits == plan.activation(site).bits
        assert 1 < np.unique(np.asarray(array)).size <= 2**bits
    grid = frozen.grids[plan.output_site]
    integers = np.asarray(simulator(plan, frozen)(x)).astype(int)
    fake = np.asarray(values[plan.output]) / np.float64(grid.scale) + grid.zero_point
    assert grid.low <= integers.min() < integers.max() <= grid.high
    # A tie that falls the other way is a step; with 16 bits, multipliers of 15 bits make some more.
    assert np.abs(integers - np.rint(fake)).max() <= (12 if grid.bits == 16 else 1)


def test_more_bits_are_nearer_to_the_float_network(residual):
    model, x = residual[0], pictures(8)
    variables = start(model, x)
    expected, errors = infer(model, variables, x), []
    for bits in (2, 4, 6, 8, 16):
        quantized = quantize(model, int8(activation=observed(bits=bits)))
        calibrated = calibrate(quantized, variables, [x])
        errors.append(float(jnp.mean(jnp.square(infer(quantized, calibrated, x) - expected))))
    assert errors == sorted(errors, reverse=True)


def test_given_grids_are_of_a_files_bits(residual):
    with pytest.raises(ValueError, match="of 8 bits, or of 16"):
        quantize(residual[0], input_grid=Grid(1.0, 0, 4))
