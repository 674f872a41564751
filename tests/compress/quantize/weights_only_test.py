"""Weights only: kernels are rounded, nothing else is, whatever stands between them."""

import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_nets import (
    Attention,
    Bottlenecks,
    Branches,
    Functions,
    Gates,
    PreActivation,
    Residual,
    Shared,
    pictures,
    start,
)

from jaxmini import steps
from jaxmini.compress import quantize as q
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.frozen import Dequantized
from jaxmini.compress.quantize.transform import is_weights_only
from jaxmini.losses import cross_entropy
from jaxmini.model import from_linen
from jaxmini.record import describe, rebuild

PLAN = """\
plan [2, 12, 12, 3] -> [2, 5]: 5 groups, 0 grids
  Residual/stem:conv fold sub mul add, relu of input
  Residual/depthwise:conv fold sub mul add, relu6, per_channel(bits=4, mse=False) of Residual/stem:conv
  Residual/pointwise:conv fold sub mul add of Residual/depthwise:conv
  Residual:float 5 float operations of Residual/stem:conv + Residual/pointwise:conv
  Residual/head:dense fold add of Residual:float"""


class Anything(nn.Module):
    """Between its kernels: what has no form in integers, of one result or several."""

    classes: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Conv(6, (3, 3), 2, name="stem")(x), approximate=False)
        x = jnp.sort(jnp.cumsum(x, -1), -1)
        x = nn.Dense(8, name="hidden")(jnp.where(x > 0.3, x, jnp.exp(-x)))
        largest, _ = jax.lax.top_k(x, 3)
        gates = nn.softplus(nn.Dense(3, name="gates")(nn.LayerNorm(name="norm")(x)))
        up = nn.ConvTranspose(3, (3, 3), (2, 2), name="up")(gates * largest)
        return nn.Dense(self.classes, name="head")(jnp.log1p(jnp.abs(up)).max((1, 2)))


class Tokens(nn.Module):
    """Token numbers, their table, a product whose kernel comes first."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 6, name="table")(tokens)
        mix = self.param("mix", nn.initializers.normal(0.5), (4, tokens.shape[1]))
        x = jnp.einsum("ot,btd->bod", mix, x)
        return nn.Dense(5, name="head")(nn.silu(x).mean(1))


EIGHT = q.weights_only()

NETS = (
    Residual,
    Bottlenecks,
    Branches,
    PreActivation,
    Shared,
    Attention,
    Gates,
    Functions,
    Anything,
)


@functools.cache
def made(net, scheme=EIGHT):
    """(quantized model, variables, inputs, plan, frozen)."""
    model = from_linen(net())
    x = jnp.arange(12).reshape(2, 6) % 11 if net is Tokens else pictures(2)
    quantized, variables = q.quantize(model, scheme), start(model, x)
    plan = q.make_plan(quantized, variables, x)
    return quantized, variables, x, plan, q.freeze(plan, variables)


@functools.cache
def answered(net):
    """What the float network computes."""
    _, variables, x, _, _ = made(net)
    return np.asarray(jax.jit(from_linen(net()).apply)(variables, x)[0])


def test_golden():
    rules = (q.rule("depth*", kernel=q.per_channel(bits=4)),)
    plan = made(Residual, q.weights_only(rules=rules))[3]
    assert [line.split() for line in str(plan).splitlines()] == [
        line.split() for line in PLAN.splitlines()
    ]


@pytest.mark.parametrize("net", [*NETS, Tokens])
def test_without_rounding_the_plan_computes_the_network(net):
    _, variables, x, plan, _ = made(net)
    found = jax.jit(lambda v, x: evaluate(plan, Float(plan, v), x))(variables, x)
    np.testing.assert_allclose(found, answered(net), rtol=1e-4, atol=1e-4)
    assert not plan.sites
    assert plan.rounds_kernels_alone


@pytest.mark.parametrize("net", [*NETS, Tokens])
def test_the_network_computes_with_what_is_frozen(net):
    quantized, variables, x, plan, frozen = made(net)
    answer = jax.jit(lambda v, x: quantized.apply(v, x)[0])(variables, x)
    expected = jax.jit(lambda x: evaluate(plan, Dequantized(plan, frozen), x))(x)
    np.testing.assert_allclose(answer, expected, rtol=2e-5, atol=2e-5)
    assert not np.allclose(answer, answered(net), rtol=2e-5, atol=2e-5)
    assert not frozen.grids
    assert not frozen.constants


@pytest.mark.parametrize(
    "net",
    [Residual, Tokens, *(pytest.param(net, marks=pytest.mark.slow) for net in NETS[1:])],
)
def test_training_rounds_as_inference_does(net):
    quantized, variables, x, _, _ = made(net)
    inference, nothing = quantized.apply(variables, x)
    training, updates = quantized.apply(variables, x, train=True, key=jax.random.key(0))
    np.testing.assert_array_equal(training, inference)
    assert nothing == updates == {}


@given(st.integers(2, 8), st.booleans(), st.integers(0, 9))
@settings(max_examples=15)
def test_kernels_are_the_nearest_integers_of_their_channel(bits, is_shared, seed):
    """Against float64, of a layer without anything to fold."""
    model, x = from_linen(nn.Dense(4, use_bias=False)), jnp.eye(6)
    kernel = (q.per_tensor if is_shared else q.per_channel)(bits=bits)
    quantized = q.quantize(model, q.weights_only(kernel))
    variables = jax.jit(quantized.init)(jax.random.key(seed), x)
    assert set(variables) == {"params"}
    weights = np.asarray(variables["params"]["kernel"], np.float64)
    limit = 2 ** (bits - 1) - 1
    scale = np.abs(weights).max(None if is_shared else 0, keepdims=True) / limit
    expected = np.rint(weights / scale)
    (frozen,) = q.freeze(q.make_plan(quantized, variables, x), variables).kernels.values()
    np.testing.assert_allclose(frozen.scale, np.broadcast_to(scale[0], 4), rtol=1e-6)
    assert np.abs(frozen.kernel - expected).max() <= (np.abs(weights / scale) % 1 > 0.499).any()
    assert np.abs(frozen.kernel).max() == limit
    assert frozen.bits == bits
    answer, _ = quantized.apply(variables, x)
    np.testing.assert_allclose(answer, frozen.float_kernel, rtol=1e-6)


def test_gradients_go_straight_through_the_rounding():
    model, x = from_linen(nn.Dense(3)), pictures(2).reshape(2, -1)[:, :7]
    quantized = q.quantize(model, q.weights_only(q.per_channel(bits=3)))
    variables = start(model, x)
    (frozen,) = q.freeze(q.make_plan(quantized, variables, x), variables).kernels.values()
    rounded = {"params": {**variables["params"], "kernel": jnp.asarray(frozen.float_kernel)}}

    def loss(model, variables):
        return jnp.sum(jnp.square(model.apply(variables, x, train=True)[0]))

    found = jax.grad(functools.partial(loss, quantized))(variables)["params"]
    expected = jax.grad(functools.partial(loss, model))(rounded)["params"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


def trained(quantized, variables, x, updates=20):
    """(losses, the state after so many updates)."""
    batch = {
        "image": x,
        "label": jnp.arange(len(x)) % 5,
        "mask": jnp.ones(len(x)),
        "id": jnp.arange(len(x)),
    }
    optimizer = steps.sgd(0.2, clip=1.0)(updates)
    step = jax.jit(steps.supervised(quantized, cross_entropy(), optimizer))
    state, losses = steps.start(optimizer, jax.random.key(0), variables), []
    for _ in range(updates):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics["loss"]))
    return losses, state


NEAREST, LEARNED, FROZEN = (
    q.weights_only(q.per_channel(bits=4)),
    q.weights_only(q.lsq_per_channel(bits=3)),
    q.weights_only(q.per_tensor(bits=3, mse=True), oscillation=q.freezing()),
)


@pytest.mark.parametrize(
    ("net", "scheme"),
    [
        (Residual, NEAREST),
        (Residual, LEARNED),
        pytest.param(Residual, FROZEN, marks=pytest.mark.slow),
        pytest.param(Attention, NEAREST, marks=pytest.mark.slow),
        pytest.param(Attention, LEARNED, marks=pytest.mark.slow),
        (Attention, FROZEN),
    ],
)
def test_networks_train(net, scheme):
    quantized, variables, x, _, _ = made(net) if scheme is None else _started(net, scheme)
    losses, state = trained(quantized, variables, x)
    assert losses[-1] < 0.8 * losses[0]
    assert "quant" not in state.collections
    if scheme.kernel.learned:
        moved = state.params["quant"]["kernels"]
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(moved))
    plan = q.make_plan(quantized, state.variables, x)
    frozen = q.freeze(plan, state.variables)
    answer = jax.jit(quantized.apply)(state.variables, x)[0]
    expected = jax.jit(lambda x: evaluate(plan, Dequantized(plan, frozen), x))(x)
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4)
    limits = {name: kernel.limit for name, kernel in plan.kernels.items()}
    assert all(np.abs(k.kernel).max() <= limits[name] for name, k in frozen.kernels.items())


def _started(net, scheme):
    model, x = from_linen(net()), pictures(5)
    quantized = q.quantize(model, scheme)
    return quantized, q.calibrate(quantized, start(model, x), [x]), x, None, None


def test_a_kernel_of_eight_bits_is_nearer_than_one_of_two():
    errors = []
    for bits in (2, 4, 8):
        quantized, variables, x, *_ = made(Residual, q.weights_only(q.per_channel(bits=bits)))
        answer = jax.jit(quantized.apply)(variables, x)[0]
        errors.append(float(jnp.abs(answer - answered(Residual)).max()))
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


def test_there_is_nothing_to_calibrate():
    quantized, variables, x, _, _ = made(Residual)
    calibrated = q.calibrate(quantized, variables, [x])
    assert jax.tree.structure(calibrated) == jax.tree.structure(variables)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), calibrated, variables))
    again = q.calibrate(quantized, {**variables, "quant": {"old": {"low": jnp.zeros(())}}}, [x])
    assert jax.tree.structure(again) == jax.tree.structure(variables)


def test_learned_scales_start_from_the_kernel():
    scheme = q.weights_only(q.lsq_per_channel(bits=4))
    quantized, variables, x, plan, _ = _started(Residual, scheme)
    plan = q.make_plan(quantized, variables, x)
    starts = variables["quant_kernels"]
    assert set(starts) == {group.name for group in plan.weighted}
    assert all(np.all(start > 0) for start in starts.values())
    unseen = jax.jit(quantized.init)(jax.random.key(0), x)
    with pytest.raises(ValueError, match="learned scale of .* has no start yet"):
        q.freeze(plan, unseen)


def test_rules_decide_on_kernels():
    rules = (
        q.rule("head", kernel=q.per_tensor(bits=2)),
        q.float_island("pointwise"),
        q.rule("*:conv", kernel=q.per_channel(bits=5)),
    )
    _, _, _, plan, frozen = made(Residual, q.weights_only(rules=rules))
    assert {name: kernel.bits for name, kernel in frozen.kernels.items()} == {
        "Residual/stem:conv": 5,
        "Residual/depthwise:conv": 5,
        "Residual/head:dense": 2,
    }
    assert len(np.unique(frozen.kernels["Residual/head:dense"].scale)) == 1
    assert "Residual/pointwise:float" in str(plan)


def test_frozen_kernels_are_stored_and_read():
    frozen = made(Attention)[4]
    again = q.Frozen.from_arrays(frozen.arrays())
    for name, kernel in frozen.kernels.items():
        read = again.kernels[name]
        assert read.input_scale is None
        assert all(
            np.array_equal(getattr(read, field), getattr(kernel, field))
            for field in ("kernel", "scale", "bias", "bits")
        )
        assert np.array_equal(read.float_bias, kernel.bias)
    assert again.floats.keys() == frozen.floats.keys()


def test_the_scheme_is_recorded():
    scheme = q.weights_only(q.per_tensor(bits=3), (q.rule("head", kernel=q.per_channel()),))
    assert rebuild(describe(scheme)) == scheme
    model = q.quantize(from_linen(Residual()), scheme)
    again = rebuild(describe(model))
    assert is_weights_only(again)
    assert again.apply.args[1] == scheme


def test_methods_after_training_take_it():
    """Learned roundings are nearer to the float network than the nearest integers."""
    scheme = q.weights_only(q.per_channel(bits=3))
    model, x = from_linen(Residual()), pictures(16)
    quantized, variables = q.quantize(model, scheme), start(model, x)
    exact = model.apply(variables, x)[0]

    def error(variables):
        return float(jnp.square(quantized.apply(variables, x)[0] - exact).mean())

    rounded = q.adaround(steps=60)(quantized, variables, [x])
    assert error(rounded) < 0.8 * error(variables)
    corrected = q.correct_bias()(quantized, variables, [x])
    assert error(corrected) < error(variables)
    costs = q.sensitivity_of(quantized, variables, [x], bits=(2, 8))
    assert not costs.activations
    assert all(one.costs[2] > one.costs[8] for one in costs.kernels)
    rules = q.propose(costs, sum(one.bytes(8) for one in costs.kernels))
    assert q.weights_only(rules=rules)


MISTAKES = {
    "matches nothing; near it: head": lambda: made(
        Residual, q.weights_only(rules=(q.rule("haed", kernel=q.per_tensor()),))
    ),
    "matches nothing; there are: Residual/stem:conv": lambda: made(
        Residual, q.weights_only(rules=(q.rule("*:float", kernel=q.per_tensor()),))
    ),
    r"float_island\(pattern='haed'\) matches no module with a kernel; near it: head": lambda: made(
        Residual, q.weights_only(rules=(q.float_island("haed"),))
    ),
    r"bits is 9, expected an integer 2\.\.8": lambda: q.weights_only(q.per_channel(bits=9)),
    r"bits is 1, expected an integer 2\.\.8": lambda: q.weights_only(q.per_channel(bits=1)),
    "speaks of activations, which stay float": lambda: q.weights_only(
        rules=(q.rule("head", estimator=q.mse()),)
    ),
    "the input stays float, and input_grid is": lambda: q.quantize(
        from_linen(Residual()), q.weights_only(), input_grid=q.Grid(0.1, 0)
    ),
    "simulate: with weights_only activations stay float": lambda: q.simulate(
        *operator.itemgetter(3, 4, 2)(made(Residual))
    ),
    r"no range for mse\(\) to make": lambda: q.calibrate(
        made(Residual)[0], made(Residual)[1], [made(Residual)[2]], q.mse()
    ),
    "keeps every kernel, so there is nothing": lambda: made(
        Residual, q.weights_only(rules=(q.float_island("*"),))
    ),
    "multiplies its input with no kernel": lambda: q.make_plan(
        q.quantize(from_linen(nn.LayerNorm()), q.weights_only()),
        start(from_linen(nn.LayerNorm()), jnp.ones((2, 3))),
        jnp.ones((2, 3)),
    ),
    "quantized already": lambda: q.quantize(made(Residual)[0], q.weights_only()),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message):
    with pytest.raises(ValueError, match=message):
        MISTAKES[message]()


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("kernel is 4, expected one as", lambda: q.weights_only(4)),
        ("expected a tuple as", lambda: q.weights_only(rules=[])),
        ("oscillation is 0.1, expected one as", lambda: q.weights_only(oscillation=0.1)),
        ("the scheme is 8, expected one as", lambda: q.quantize(from_linen(Residual()), 8)),
    ],
)
def test_values_of_another_kind_are_refused(message, make):
    with pytest.raises(TypeError, match=message):
        make()
