"""The traced program computes what the model computes, and keeps what matters of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_nets import Branches, PreActivation, Residual, Shared, pictures, start

from jaxmini import models
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.program import trace
from jaxmini.compress.quantize.transform import make_plan
from jaxmini.model import from_linen, with_head

NETS = {
    "residual": Residual(),
    "branches": Branches(),
    "pre_activation": PreActivation(),
    "shared": Shared(),
    "small_resnet": models.small_resnet(10),
    "resnet_cifar": models.resnet_cifar(8, 10),
    "resnet_cifar_a": models.resnet_cifar(8, 10, shortcut="A"),
    "mobilenet_v2": models.mobilenet_v2(10, width=0.35),
    "mobilenet_v4": models.mobilenet_v4_conv_s(10, width=0.35),
}


def differences(model, inputs):
    variables = start(model, inputs)
    plan = make_plan(model, variables, inputs)

    @jax.jit
    def outputs(variables, inputs):
        expected, _ = model.apply(variables, inputs)
        return (
            expected,
            plan.program(variables, inputs),
            evaluate(plan, Float(plan, variables), inputs),
        )

    expected, program, folded = map(np.asarray, outputs(variables, inputs))
    return np.abs(program - expected).max(), np.abs(folded - expected).max() / np.ptp(expected)


@pytest.mark.parametrize("name", NETS)
def test_the_program_is_the_model(name):
    size = 12 if name in ("residual", "branches", "pre_activation", "shared") else 32
    program, folded = differences(from_linen(NETS[name]), pictures(size=size))
    assert program <= 1e-6
    assert folded <= 5e-6  # folding changes the order of roundings, of a range of 1


def test_a_model_in_two_parts_is_one_program():
    model = with_head(models.small_resnet(), nn.Dense(3))
    assert max(differences(model, pictures())) <= 5e-6


def test_relu_keeps_its_derivative_at_zero():
    model = from_linen(nn.Sequential([nn.Dense(2, use_bias=False), nn.relu]))
    x = jnp.ones((1, 3))
    variables = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), x))
    program = trace(model, variables, x)

    def total(x):
        return program({"params": {"layers_0": {"kernel": x}}}, jnp.ones((1, 3))).sum()

    assert not np.any(jax.grad(total)(jnp.zeros((3, 2))))  # max would give 1/2


def test_ops_know_their_module():
    x = pictures()
    paths = {
        op.path
        for op in trace(from_linen(PreActivation()), start(from_linen(PreActivation()), x), x).ops
    }
    assert "PreActivation/stem" in paths
    assert any(path.endswith("conv") for path in paths)  # inside remat


def test_other_variables_are_refused():
    x, model = pictures(), from_linen(Shared())
    variables = start(model, x)
    program = trace(model, variables, x)
    with pytest.raises(ValueError, match="was traced with variables of the structure"):
        program({"params": {"head": variables["params"]["head"]}}, x)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x, nn.Dense(2)(x)


def test_two_outputs_are_refused():
    x = jnp.ones((1, 3))
    model = from_linen(Two())
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        trace(model, model.init(jax.random.key(0), x), x)


class Stuck(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(2)(x))


def test_batch_statistics_are_refused():
    x = jnp.ones((4, 3))
    variables = Stuck().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="use_running_average=not train"):
        make_plan(from_linen(Stuck()), variables, x)


class OwnNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(2)(x)
        return x - x.mean(0, keepdims=True)


def test_own_batch_statistics_are_refused():
    x = jnp.ones((4, 3))
    variables = OwnNorm().init(jax.random.key(0), x)
    with pytest.raises(
        ValueError, match=r"statistics over the batch \('reduce_sum' in the module OwnNorm\)"
    ):
        make_plan(from_linen(OwnNorm()), variables, x)
