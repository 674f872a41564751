"""Convolutions and pools of sequences are those of pictures one row high, all the way to the file."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quantize_checks import check, net, plan_of, refusal, run
from quantize_nets import start

from jaxmini.compress.quantize import calibrate, freeze, make_plan, quantize, weights_only
from jaxmini.export import weights_only_file
from jaxmini.export.flatbuffer import read
from jaxmini.model import from_linen

SEQUENCES = jax.random.normal(jax.random.key(0), (6, 16, 4))


class Audio(nn.Module):
    """Plain, strided, dilated, depthwise and transposed convolutions, both pools, a normalisation."""

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=True, name="norm")
        x = nn.relu(norm(nn.Conv(6, (5,), 2, use_bias=False, name="stem")(x)))
        x = nn.max_pool(x, (3,), (2,), padding="SAME")
        x = nn.relu6(nn.Conv(12, (3,), feature_group_count=6, name="depthwise")(x))
        x = nn.Conv(6, (2,), kernel_dilation=2, name="dilated")(x)
        x = nn.pooling.pool(x, 0.0, lax.add, (2,), (2,), "VALID") / 2.0
        return nn.ConvTranspose(3, (4,), (3,), name="up")(x)


def test_a_plan_moves_sequences_and_rounds_once_a_convolution():
    plan = plan_of(Audio(), SEQUENCES)
    groups = {group.name: group for group in plan.groups}
    assert [plan.program.shape(group.op.outputs[0]) for group in plan.weighted] == [
        *((6, 1, 8, 6), (6, 1, 4, 12), (6, 1, 4, 6), (6, 1, 2, 9))
    ]
    assert str(groups["Audio/stem:conv"]) == "fold sub mul add, relu"
    assert str(groups["Audio/depthwise:conv"]) == "fold add, relu6"
    assert set(plan.sites) == {"input", *(group.name for group in plan.weighted)}
    assert plan.program.shape(plan.output) == (6, 6, 3)


@pytest.mark.parametrize("backend", ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)])
def test_the_file_computes_it(backend):
    _, content = check(Audio(), SEQUENCES, backend=backend, most=2)
    counts = read(content).op_counts
    assert counts["CONV_2D"] == 3
    assert counts["DEPTHWISE_CONV_2D"] == counts["AVERAGE_POOL_2D"] == counts["MAX_POOL_2D"] == 1
    assert "TRANSPOSE_CONV" not in counts


def test_a_file_of_kernels_alone_computes_it():
    model = from_linen(Audio())
    variables, twin = start(model, SEQUENCES[:1]), quantize(model, weights_only())
    variables = calibrate(twin, variables, [SEQUENCES])
    one = make_plan(twin, variables, SEQUENCES[:1])
    content, compared = weights_only_file(one, freeze(one, variables), "litert")
    assert compared.groups == 4
    expected = np.asarray(jax.jit(twin.apply)(variables, SEQUENCES)[0])
    np.testing.assert_allclose(run(content, SEQUENCES), expected, atol=1e-4 * np.ptp(expected))


class Volumes(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(2, (3, 3, 3), name="deep")(x)


def test_volumes_are_refused_with_their_module():
    message = refusal(Volumes(), jnp.ones((2, 4, 4, 4, 2)))
    assert (
        "it is a convolution along 3 axes ('conv_general_dilated' in the module Volumes/deep)"
        in message
    )
    assert "make the others examples or channels by a reshape" in message


class Forms(nn.Module):
    """A convolution of sequences as ``lax`` has it."""

    layout: tuple[str, str, str]

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.normal(1.0), (4, 4, 4))
        return lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=self.layout)


def test_sequences_with_channels_first_are_refused():
    assert "its layout is" in refusal(Forms(("NCH", "OIH", "NCH")), jnp.ones((2, 4, 4)))
    plan_of(Forms(("NHC", "HIO", "NHC")), jnp.ones((2, 4, 4)))


class Wide(nn.Module):
    """Products with kernels of four axes, which are no windows."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.DenseGeneral((2, 4), axis=(-2, -1), name="first")(x))
        return nn.DenseGeneral((2, 3), axis=(-2, -1), name="second")(x)


def test_a_kernel_of_four_axes_is_a_matrix_where_nothing_is_convolved():
    x = jax.random.normal(jax.random.key(1), (6, 5, 2, 3))
    check(Wide(), x)
    _, twin, variables, _ = net(Wide(), x)
    plan = make_plan(twin, variables, x)
    kernels = freeze(plan, variables).kernels
    assert kernels["Wide/first:dense"].kernel.shape == (6, 8)


class Groups(nn.Module):
    """Pictures through groups of several features, and holes in kernels of every kind."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x))
        x = nn.relu6(nn.Conv(12, (3, 3), 2, feature_group_count=4, name="groups")(x))
        x = x + nn.Conv(12, (3, 3), kernel_dilation=2, name="holes")(x)
        x = nn.relu(nn.Conv(12, (3, 3), kernel_dilation=2, feature_group_count=12, name="deep")(x))
        x = nn.Conv(8, (1, 1), feature_group_count=2, name="narrow")(x)
        return nn.Dense(5, name="head")(x.mean((1, 2)))


@pytest.mark.parametrize("backend", ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)])
def test_the_file_of_groups_and_of_dilated_kernels_computes_them(backend):
    plan, content = check(Groups(), backend=backend)
    assert len(plan.weighted) == 6
    counts = read(content).op_counts
    assert (counts["CONV_2D"], counts["DEPTHWISE_CONV_2D"]) == (4, 1)
