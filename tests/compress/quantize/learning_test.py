"""A model that learns its scales: trained, counted, frozen, simulated, stopped and continued."""

import functools
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quantize_nets import Branches, Residual, pictures, start

from jaxmini import data, losses, models, steps
from jaxmini.compress import quantize
from jaxmini.compress.quantize import (
    calibrate,
    dampening,
    floats_of,
    freeze,
    freezing,
    int8,
    learned_min_max,
    lsq,
    lsq_per_channel,
    lsq_per_tensor,
    lsq_plus,
    make_plan,
    monitoring,
    observed,
    pact,
    per_channel,
    percentile,
    phases,
    rule,
    simulate,
    tqt,
)
from jaxmini.compress.quantize.leaves import replaced
from jaxmini.model import from_linen
from jaxmini.record import describe, rebuild

MODEL = from_linen(Residual())
X = pictures(8)
EVERYTHING = int8(
    activation=lsq(),
    kernel=lsq_per_channel(bits=4),
    schedule=phases(start=1, freeze=4),
    oscillation=freezing(momentum=0.3, threshold=0.25),
)


@functools.cache
def floats():
    return start(MODEL, X)


def prepared(scheme, **settings):
    model = quantize.quantize(MODEL, scheme, **settings)
    return model, calibrate(model, floats(), [X[:4], X[4:]])


@functools.cache
def trainer(scheme, learning_rate=0.02):
    """(model, compiled step, first state) of a distillation from the float model's own answers."""
    model, variables = prepared(scheme)
    optimizer = optax.sgd(learning_rate, momentum=0.9)
    step = steps.distill(model, MODEL, losses.kl(), optimizer)
    return model, jax.jit(step), steps.start(optimizer, jax.random.key(1), variables)


@functools.cache
def batches(count):
    return tuple({"image": pictures(8, seed=seed)} for seed in range(count))


def run(scheme, count):
    """All states, the first included, and metrics, of so many updates."""
    _, step, state = trainer(scheme)
    states, told = [state], []
    for batch in batches(count):
        state, metrics = step(state, floats(), batch)
        states.append(state)
        told.append(jax.device_get(metrics))
    return states, told


def leaves(tree):
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(tree)}


def grids(model, state):
    plan = make_plan(model, state.variables, X)
    return {name: float(grid.scale) for name, grid in freeze(plan, state.variables).grids.items()}


def test_init_and_calibrate_make_the_same_tree():
    model, calibrated = prepared(EVERYTHING)
    fresh = jax.eval_shape(model.init, jax.random.key(0), X)
    assert jax.tree.structure(fresh) == jax.tree.structure(calibrated)
    assert set(fresh) == {
        "params", "batch_stats", "quant", "quant_kernels", "quant_schedule", "quant_oscillation",
    }  # fmt: skip
    assert set(fresh["params"]["quant"]) == {"activations", "kernels"}
    plan = make_plan(model, fresh, X)
    assert set(fresh["params"]["quant"]["activations"]) == set(plan.observed)
    assert set(fresh["quant_kernels"]) == {group.name for group in plan.weighted}
    assert jax.tree.structure(floats_of(calibrated)) == jax.tree.structure(floats())
    again = calibrate(model, run(EVERYTHING, 3)[0][-1].variables, [X[:4], X[4:]])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(again["params"]["quant"]))
    assert int(again["quant_schedule"]["step"]) == 0


def test_a_plain_scheme_adds_nothing():
    _, calibrated = prepared(int8())
    assert set(calibrated) == {"params", "batch_stats", "quant"}
    assert "quant" not in calibrated["params"]


# A grid of every kind in one net; in the slow tests a net of each.
MIXED = int8(
    activation=lsq_plus(),
    kernel=lsq_per_tensor(bits=6),
    rules=(
        rule("stem", activation=pact(l2=0.1)),
        rule("depthwise", estimator=percentile(95), activation=learned_min_max()),
        rule(
            "pointwise",
            kernel=lsq_per_channel(bits=4, mse=True),
            activation=tqt(power_of_two=False),
        ),
        rule("head", kernel=lsq_per_channel(), activation=lsq()),
    ),
)
ALONE = (
    int8(activation=lsq(), kernel=lsq_per_channel()),
    int8(activation=lsq_plus(), kernel=lsq_per_tensor(bits=6)),
    int8(activation=pact(l2=0.1)),
    int8(estimator=percentile(95), activation=learned_min_max()),
    int8(activation=tqt(power_of_two=False), kernel=lsq_per_channel(bits=4, mse=True)),
)


@pytest.mark.parametrize(
    "scheme", [MIXED, *(pytest.param(one, marks=pytest.mark.slow) for one in ALONE)], ids=str
)
def test_what_is_learned_is_trained_frozen_and_simulated(scheme):
    model, _, _ = trainer(scheme)
    states, told = run(scheme, 3)
    first, last = (leaves(state.params["quant"]) for state in (states[0], states[-1]))
    assert not any(np.any(leaf) for leaf in first.values())
    moved = [np.any(leaf) for leaf in last.values()]
    assert np.mean(moved) >= 0.5  # an end that nothing exceeds has no gradient
    assert all(np.all(np.isfinite(leaf)) for leaf in last.values())
    assert told[-1]["loss"] < told[0]["loss"] + 1
    before, after = grids(model, states[0]), grids(model, states[-1])
    variables = states[-1].variables
    plan = make_plan(model, variables, X)
    learned = set(states[0].params["quant"].get("activations", ()))
    assert any(before[site] != after[site] for site in learned)
    for site, added in states[-1].params["quant"].get("activations", {}).items():
        if "scale" in added and isinstance(plan.activation(site), lsq):
            np.testing.assert_allclose(after[site] - before[site], added["scale"], atol=1e-7)
    # The integers of the frozen tree answer as training's own forward pass does, but for ties.
    frozen = freeze(plan, variables)
    integers = jax.jit(functools.partial(simulate, plan, frozen))(X)
    grid = frozen.grids[plan.output_site]
    trained = np.asarray(jax.jit(model.apply)(variables, X)[0]) / grid.scale + grid.zero_point
    assert np.abs(np.float32(integers) - trained).max() <= 3
    for name, added in states[-1].params["quant"].get("kernels", {}).items():
        expected = variables["quant_kernels"][name] + added
        known = expected > 1e-5  # BatchNorm has silenced the first channel of some
        assert np.mean(known) > 0.5
        np.testing.assert_allclose(frozen.kernels[name].scale[known], expected[known], rtol=1e-6)


def test_training_may_start_without_calibration():
    scheme = int8(activation=lsq(), kernel=lsq_per_channel(bits=4))
    model, calibrated = prepared(scheme)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    learned = variables["params"]["quant"]
    variables |= floats() | {"params": {**floats()["params"], "quant": learned}}
    unseen = {**calibrated, "quant_kernels": variables["quant_kernels"]}
    with pytest.raises(ValueError, match="has no start yet: call calibrate"):
        model.apply(unseen, X)
    _, updates = jax.jit(functools.partial(model.apply, train=True))(variables, X)
    for name, scale in calibrated["quant_kernels"].items():
        np.testing.assert_allclose(updates["quant_kernels"][name], scale, rtol=1e-6)
    assert np.all(np.isfinite(jax.jit(model.apply)({**variables, **updates}, X)[0]))


def test_the_start_of_a_learned_grid_stays_where_it_was():
    scheme = int8(momentum=0.5, activation=lsq(), rules=(rule("head", activation=observed()),))
    states, _ = run(scheme, 2)
    first, last = (state.collections["quant"] for state in (states[0], states[-1]))
    for site in first:
        same = first[site]["high"] == last[site]["high"]
        assert same == (site != "Residual/head:dense")
    assert "Residual/head:dense" not in states[0].params["quant"]["activations"]


def test_phases_of_training():
    scheme = int8(activation=lsq(), schedule=phases(start=2, freeze=3))
    model, _, state = trainer(scheme)
    states, _ = run(scheme, 6)
    # Before: activations are float, nothing but kernels and biases is rounded; ranges follow the data.
    outputs, updates = jax.jit(functools.partial(model.apply, train=True))(state.variables, 2 * X)
    site = "Residual/stem:conv"
    assert updates["quant"][site]["high"] > state.collections["quant"][site]["high"]
    wide = jax.jit(MODEL.apply)(floats(), 2 * X)[0]
    rounded = jax.jit(model.apply)(state.variables, 2 * X)[0]
    assert np.abs(outputs - wide).max() < 0.5 * np.abs(rounded - wide).max()
    learned = [leaves(s.params["quant"]) for s in states]
    assert not any(np.any(leaf) for leaf in learned[2].values())
    assert any(np.any(leaf) for leaf in learned[3].values())
    # After: the optimizer's momentum still moves what is learned, and the grids do not follow.
    after = [grids(model, s) for s in states]
    assert after[3] != after[2]
    assert after[3] == after[4] == after[6]
    assert learned[4] != learned[3]
    assert int(states[-1].collections["quant_schedule"]["step"]) == 6
    moving = [leaves(s.collections["quant"])["['Residual/stem:conv']['high']"] for s in states]
    assert moving[1] != moving[2] == moving[3] == moving[6]


def test_observed_ranges_freeze_too():
    scheme = int8(momentum=0.5, schedule=phases(freeze=2))
    states, _ = run(scheme, 4)
    highs = [float(s.collections["quant"]["Residual/stem:conv"]["high"]) for s in states]
    assert highs[0] != highs[1] != highs[2] == highs[3] == highs[4]


def test_stopping_does_not_change_it():
    """The state is all there is: written out and read back in the middle, training ends bit for bit."""
    _, step, _ = trainer(EVERYTHING)
    states, _ = run(EVERYTHING, 6)
    data = jax.random.key_data(states[3].key)
    stored = pickle.loads(pickle.dumps(jax.device_get(states[3].replace(key=data))))
    state = jax.tree.map(jnp.asarray, stored).replace(key=states[3].key)
    for batch in batches(6)[3:]:
        state, _ = step(state, floats(), batch)
    expected, got = (leaves((s.params, s.collections)) for s in (states[-1], state))
    for name, leaf in expected.items():
        np.testing.assert_array_equal(got[name], leaf)


def test_scan_is_a_loop():
    _, step, state = trainer(EVERYTHING)
    states, _ = run(EVERYTHING, 3)
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *batches(3))
    end, _ = jax.jit(lambda s, b: jax.lax.scan(lambda s, b: step(s, floats(), b), s, b))(
        state, stacked
    )
    got, expected = leaves(end.params), leaves(states[-1].params)
    for name, leaf in expected.items():
        np.testing.assert_allclose(got[name], leaf, rtol=1e-3, atol=1e-5)


def test_oscillation_is_reported_and_freezes():
    states, told = run(EVERYTHING, 6)
    assert set(told[0]) >= {"loss", "grad_norm", "oscillating", "frozen"}
    assert told[-1]["frozen"] > 0
    model, _, _ = trainer(EVERYTHING)
    plan = make_plan(model, states[-1].variables, X)
    kernels = freeze(plan, states[-1].variables).kernels
    for name, history in states[-1].collections["quant_oscillation"].items():
        frozen = np.asarray(history["is_frozen"])
        np.testing.assert_array_equal(
            kernels[name].kernel[frozen], np.asarray(history["integers"])[frozen]
        )
        earlier = states[-2].collections["quant_oscillation"][name]
        assert np.all(frozen >= earlier["is_frozen"])


def test_penalties_are_in_the_objective_and_reported():
    plain, pulled = int8(oscillation=monitoring()), int8(oscillation=dampening(strength=10.0))
    _, (first, *_) = run(plain, 1)
    _, (second, *_) = run(pulled, 1)
    assert "penalty_kernels" not in first
    assert second["penalty_kernels"] > 0
    np.testing.assert_allclose(second["loss"] - second["penalty_kernels"], first["loss"], rtol=1e-4)
    _, (clipped, *_) = run(int8(activation=pact(l2=0.1)), 1)
    ranges = trainer(int8(activation=pact(l2=0.1)))[2].collections["quant"].values()
    highs = [float(known["high"]) for known in ranges]
    assert 0 < clipped["penalty_activations"] < 0.05 * np.square(highs).sum() * 1.01


def test_pact_is_of_rectified_sites():
    model, calibrated = prepared(int8(activation=pact()))
    plan = make_plan(model, calibrated, X)
    rectified = {site for site in plan.observed if plan.is_rectified(site)}
    assert set(calibrated["params"]["quant"]["activations"]) == rectified
    assert "Residual/head:dense" not in rectified
    assert "Residual/stem:conv" in rectified
    assert "pact(l2=0.0002)" in str(plan)
    wrong = quantize.quantize(MODEL, int8(rules=(rule("head", activation=pact()),)))
    with pytest.raises(ValueError, match="a rule gives 'Residual/head:dense' pact.*lsq"):
        calibrate(wrong, floats(), [X])


def test_given_grids_are_not_learned_and_tied_ones_are_one():
    _, calibrated = prepared(int8(activation=lsq()), input_grid=quantize.Grid(0.05, 3))
    assert "input" not in calibrated["params"]["quant"]["activations"]
    net = from_linen(Branches())
    model = quantize.quantize(net, int8(activation=lsq()))
    calibrated = calibrate(model, start(net, X), [X])
    plan = make_plan(model, calibrated, X)
    assert set(calibrated["params"]["quant"]["activations"]) == set(plan.sites)
    assert plan.ties

    def total(variables):
        return jnp.sum(jnp.square(model.apply(variables, X, train=True)[0]))

    slopes = jax.jit(jax.grad(lambda p: total({**calibrated, "params": p})))(calibrated["params"])
    for site in plan.ties:
        assert np.any(slopes["quant"]["activations"][site]["scale"])
    torn = quantize.quantize(net, int8(rules=(rule("second*", activation=lsq()),)))
    with pytest.raises(ValueError, match="rules give them several activations"):
        calibrate(torn, start(net, X), [X])


def test_vmap_over_models():
    model, calibrated = prepared(int8(activation=lsq(), kernel=lsq_per_channel(bits=4)))
    scaled = jax.tree.map(lambda leaf: 1.1 * leaf, calibrated)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), calibrated, scaled)
    train = functools.partial(model.apply, train=True)
    together, _ = jax.jit(jax.vmap(lambda v: train(v, X)))(both)
    for row, variables in enumerate((calibrated, scaled)):
        alone, _ = jax.jit(train)(variables, X)
        np.testing.assert_allclose(together[row], alone, atol=1e-4)


def test_variables_that_do_not_fit_are_refused():
    model, calibrated = prepared(int8(activation=lsq(), kernel=lsq_per_channel()))
    plain = calibrate(quantize.quantize(MODEL), floats(), [X])
    for train in (False, True):
        with pytest.raises(ValueError, match="learned of sites does not fit .*call calibrate"):
            model.apply(plain, X, train=train)
    without = {name: tree for name, tree in calibrated.items() if name != "quant_kernels"}
    with pytest.raises(ValueError, match="learned of kernels does not fit"):
        model.apply(without, X, train=True)
    for scheme, name in ((int8(schedule=phases(3)), "schedule"), (EVERYTHING, "oscillation")):
        model, calibrated = prepared(scheme)
        del calibrated[f"quant_{name}"]
        with pytest.raises(ValueError, match=f"hold no 'quant_{name}', which the scheme asks for"):
            model.apply(calibrated, X, train=True)

    class Clash(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(2, (3, 3), name="quant")(x)

    with pytest.raises(ValueError, match="a module of the model is called 'quant'"):
        quantize.quantize(from_linen(Clash())).init(jax.random.key(0), X)


def test_bad_settings_are_refused():
    with pytest.raises(TypeError, match=r"int8: activation is 'lsq', expected one as lsq\(\)"):
        int8(activation="lsq")
    with pytest.raises(TypeError, match="int8: schedule is 3, expected one as phases"):
        int8(schedule=3)
    with pytest.raises(TypeError, match="int8: oscillation is 0.1, expected one as freezing"):
        int8(oscillation=0.1)
    with pytest.raises(ValueError, match="give it an estimator, a kernel or an activation"):
        rule("head")


def test_schemes_are_recorded_and_printed():
    model, _ = prepared(EVERYTHING)
    assert rebuild(describe(EVERYTHING)) == EVERYTHING
    copy = rebuild(describe(model))
    assert copy.apply.args[1] == EVERYTHING
    assert copy.init.keywords == {"scheme": EVERYTHING}
    assert "activation=lsq()" in repr(EVERYTHING)
    assert repr(int8()) == "int8(momentum=0.99)"
    assert repr(rule("a", activation=lsq())).endswith("activation=lsq())")
    text = str(make_plan(model, floats(), X))
    assert "lsq()" in text
    assert "lsq_per_channel(bits=4, mse=False)" in text


def test_what_changes_weights_after_training_keeps_what_is_learned():
    _, calibrated = prepared(EVERYTHING)
    first = jax.tree.leaves(floats_of(calibrated))[0]
    changed = replaced(calibrated, {0: np.asarray(first) + 1})
    assert jax.tree.structure(changed) == jax.tree.structure(calibrated)
    np.testing.assert_array_equal(jax.tree.leaves(floats_of(changed))[0], first + 1)


@pytest.mark.slow
def test_learned_scales_beat_the_largest_weight_at_two_bits():
    """Digits, a small CNN with kernels of 2 bits: accuracy on held-out pictures, over three seeds."""
    found = []
    for scheme in (
        int8(kernel=per_channel(bits=2)),
        int8(kernel=lsq_per_channel(bits=2), activation=lsq()),
    ):
        accuracies = [digits_accuracy(scheme, seed) for seed in range(3)]
        print(f"{scheme}: {np.mean(accuracies):.4f} of {np.round(accuracies, 4)}")
        found.append(np.mean(accuracies))
    assert found[1] > found[0] + 0.05


def digits_accuracy(scheme, seed, updates=120):
    """Accuracy on 500 test pictures after ``updates`` of supervised training from a float net."""
    normalization = data.Normalization(51 / 255, 0.4)
    split = data.digits(test=500).load()
    net, variables = digits_net(seed, normalization)
    model = quantize.quantize(net, scheme)
    images = normalization(jnp.asarray(split.train.image[:500]))
    variables = calibrate(model, variables, [images])
    variables = fitted(model, variables, split, normalization, seed, updates, 0.01)
    answers = jax.jit(model.apply)(variables, normalization(jnp.asarray(split.test.image)))[0]
    return float(np.mean(np.argmax(answers, -1) == split.test.label))


@functools.cache
def digits_net(seed, normalization):
    """A float net, trained."""
    split = data.digits(test=500).load()
    net = from_linen(models.small_resnet(10, stem_width=8, stem_stride=1, widths=(8, 16)))
    variables = jax.jit(net.init)(jax.random.key(seed), jnp.zeros((1, 8, 8, 1)))
    return net, fitted(net, variables, split, normalization, seed, 240, 0.05)


def fitted(model, variables, split, normalization, seed, updates, learning_rate):
    optimizer = steps.sgd(learning_rate, clip=1.0)(updates)

    def inputs(key, batch, view_index):
        return normalization(batch["image"])

    step = jax.jit(steps.supervised(model, losses.cross_entropy(), optimizer, inputs=inputs))
    state = steps.start(optimizer, jax.random.key(seed), variables)
    for number in range(updates):
        state, _ = step(state, {}, data.batch_at(split.train, 64, seed=seed, step=number))
    return state.variables
