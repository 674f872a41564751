"""Normalisations in integers: recognised by what they compute, exact in the file, and what they lose."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_checks import run
from quantize_nets import pictures, start

from jaxmini.compress.quantize import (
    Grid,
    calibrate,
    float_island,
    freeze,
    int8,
    integer_norm,
    make_plan,
    quantize,
    simulate,
    tables,
)
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.grid import quantized
from jaxmini.compress.quantize.plan import INPUT
from jaxmini.export import integer_file
from jaxmini.export.flatbuffer import read
from jaxmini.model import from_linen
from jaxmini.models.vit import vit

LEVELS = np.arange(-128, 128)


class Normed(nn.Module):
    """A normalisation between two layers."""

    norm: nn.Module
    rectified: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), 4, name="embed")(x).reshape(x.shape[0], -1, 8)
        x = self.norm(x)
        return nn.Dense(5, name="head")(nn.relu(x) if self.rectified else x)


NETS = {
    "layer": Normed(nn.LayerNorm(name="norm")),
    "exact_variance": Normed(nn.LayerNorm(use_fast_variance=False, name="norm")),
    "rms": Normed(nn.RMSNorm(name="norm"), rectified=True),
    "bare": Normed(nn.LayerNorm(use_bias=False, use_scale=False, name="norm")),
    "vit": vit(5, patch=4, width=16, layers=1, heads=2),
}


@functools.cache
def form(name):
    """Model, quantized model, calibrated variables, pictures."""
    model, x = from_linen(NETS[name]), pictures(6)
    variables = start(model, x[:1])
    twin = quantize(model, int8(rules=(integer_norm(),)))
    return model, twin, calibrate(twin, variables, [x]), x


@pytest.mark.parametrize("name", NETS)
def test_without_rounding_it_is_the_model(name):
    model, twin, variables, x = form(name)
    plan = make_plan(twin, variables, x)
    floats = {key: tree for key, tree in variables.items() if key != "quant"}
    expected = jax.jit(model.apply)(floats, x)[0]
    actual = jax.jit(lambda x: evaluate(plan, Float(plan, floats), x))(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert not plan.islands


@pytest.mark.parametrize("backend", ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["layer", "rms", "vit"])
def test_the_file_is_the_simulation_bit_for_bit(name, backend):
    _, twin, variables, x = form(name)
    plan, one = (make_plan(twin, variables, inputs) for inputs in (x, x[:1]))
    frozen = freeze(plan, variables)
    content, _ = integer_file(one, freeze(one, variables), backend)
    integers = quantized(x, frozen.grids[INPUT])
    expected = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(integers))
    np.testing.assert_array_equal(run(content, integers), expected)
    assert np.ptp(expected.astype(int)) > 100
    ops = read(content).op_counts
    assert {"MEAN", "RSQRT"} <= ops.keys()
    assert not {"DEQUANTIZE", "QUANTIZE"} & ops.keys()


@pytest.mark.parametrize("name", ["layer", "rms", "vit"])
def test_fake_quantization_is_near_the_integers(name):
    _, twin, variables, x = form(name)
    plan = make_plan(twin, variables, x)
    frozen = freeze(plan, variables)
    grid = frozen.grids[plan.output_site]
    integers = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(x)).astype(int)
    fake = np.asarray(quantized(jax.jit(twin.apply)(variables, x)[0], grid)).astype(int)
    assert np.abs(integers - fake).max() <= 6  # a flipped tie travels
    assert np.mean(integers != fake) < 0.2


def test_an_integer_norm_loses_more_than_an_island():
    """Of 2048 rows whose standard deviations are 1/2 to 2: the noise beside the signal."""
    x = jax.random.normal(jax.random.key(1), (8, 16, 16, 8))
    x = x * 2.0 ** jax.random.uniform(jax.random.key(2), (8, 16, 16, 1), minval=-1, maxval=1)
    noise = {}
    for kind, rules in (("island", ()), ("integers", (integer_norm(),))):
        twin = quantize(from_linen(Alone()), int8(rules=rules))
        variables = calibrate(twin, twin.init(jax.random.key(0), x), [x])
        exact = Alone().apply({}, x)
        lost = jax.jit(twin.apply)(variables, x)[0] - exact
        noise[kind] = float(jnp.sqrt(jnp.mean(jnp.square(lost)) / jnp.mean(jnp.square(exact))))
    assert noise["island"] == pytest.approx(0.019, abs=0.002)
    assert noise["integers"] == pytest.approx(0.040, abs=0.004)


class Alone(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.LayerNorm(use_bias=False, use_scale=False, name="norm")(x)


def test_it_trains():
    _, twin, variables, x = form("vit")
    tx = optax.sgd(0.02)

    @jax.jit
    def step(variables):
        def loss_fn(params):
            logits, updates = twin.apply({**variables, "params": params}, x, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(6) % 5)
            return losses.mean(), updates

        (loss, updates), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        changes, _ = tx.update(grads, tx.init(variables["params"]))
        params = optax.apply_updates(variables["params"], changes)
        return {**variables, **updates, "params": params}, loss

    losses = []
    for _ in range(5):
        variables, loss = step(variables)
        losses.append(float(loss))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(variables))
    assert losses[-1] < losses[0]


def test_rows_without_variance_leave_gradients_finite():
    twin = quantize(from_linen(Alone()), int8(rules=(integer_norm(),)))
    x = jnp.ones((2, 4, 4, 3)) * jnp.arange(4.0).reshape(1, 4, 1, 1)
    x = x.at[0, 0, 0, 0].set(9.0)
    variables = calibrate(twin, twin.init(jax.random.key(0), x), [x])
    grad = jax.jit(jax.grad(lambda x: jnp.sum(twin.apply(variables, x, train=True)[0] ** 2)))(x)
    assert bool(jnp.isfinite(grad).all())


@given(st.floats(1e-4, 1.0), st.floats(1e-3, 0.2))
@settings(deadline=None, max_examples=20)
def test_roots_are_near_those_of_the_numbers(scale, step):
    source, target = Grid(scale, -128), Grid(step, -128)
    roots = np.asarray(tables.rsqrt(jnp.float32(LEVELS + 128), source, target))
    numbers = np.arange(1, 256) * np.float32(scale)
    expected = np.clip(1 / np.sqrt(numbers) / np.float32(step), 0, 255)
    assert roots[0] == 255
    assert np.abs(roots[1:] - expected).max() <= 0.51


REFUSED = {
    "groups": (Normed(nn.GroupNorm(2, name="norm")), "only a LayerNorm or an RMSNorm"),
    "axes": (Normed(nn.LayerNorm(reduction_axes=(1, 2), name="norm")), "over the last axis"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_normalisations_are_refused(name):
    module, message = REFUSED[name]
    model, x = from_linen(module), pictures(2)
    twin = quantize(model, int8(rules=(integer_norm("norm"),)))
    with pytest.raises(ValueError, match=f"{message}.*Normed/norm"):
        make_plan(twin, {**start(model, x), "quant": {}}, x)


def test_a_pattern_chooses_and_an_island_comes_first():
    model, x = from_linen(NETS["vit"]), pictures(2)
    rules = (integer_norm("block0/*"), float_island("block0/norm1"))
    twin = quantize(model, int8(rules=rules))
    plan = make_plan(twin, {**start(model, x), "quant": {}}, x)
    assert [group.name for group in plan.islands] == ["ViT/block0/norm1:island", "ViT/norm:norm"]
    wrong = quantize(model, int8(rules=(integer_norm("block1/*"),)))
    with pytest.raises(ValueError, match="matches no normalisation; there are: ViT/block0/norm0"):
        make_plan(wrong, {**start(model, x), "quant": {}}, x)
    with pytest.raises(TypeError, match="expected a glob"):
        integer_norm("")
