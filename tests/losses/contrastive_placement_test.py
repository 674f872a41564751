"""Contrastive losses see the whole batch in every placement: four devices give the gradient of one."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmini import axis
from jaxmini.losses.contrastive import info_nce_loss, nt_xent_loss

LOSSES = [nt_xent_loss, functools.partial(info_nce_loss, symmetric=True)]


def train_step(params, x0, x1):
    """The losses and their sum's gradient, in the form of a step: mean inside, mean of grads after."""

    def loss_fn(params):
        z0, z1 = axis.gather((x0 @ params["encoder"], x1 @ params["encoder"]))
        values = [loss(z0, z1, params["temperature"], block=5) for loss in LOSSES]
        return axis.mean(values[0] + values[1]), axis.mean(values)

    grads, values = jax.grad(loss_fn, has_aux=True)(params)
    return values, axis.mean(grads)


def on_one_device(params, x0, x1):
    return jax.jit(train_step)(params, x0, x1)


def on_sharded_jit(params, x0, x1):
    rows = NamedSharding(four_devices(), PartitionSpec(axis.AXIS))
    return jax.jit(train_step)(params, jax.device_put(x0, rows), jax.device_put(x1, rows))


def on_pmap(params, x0, x1):
    x0, x1 = (x.reshape(4, -1, x.shape[1]) for x in (x0, x1))
    mapped = jax.pmap(
        train_step, axis.AXIS, in_axes=(None, 0, 0), out_axes=None, devices=jax.devices()[:4]
    )
    return mapped(params, x0, x1)


def on_shard_map(params, x0, x1, check_vma):
    rows, whole = PartitionSpec(axis.AXIS), PartitionSpec()
    mapped = jax.shard_map(
        train_step,
        mesh=four_devices(),
        in_specs=(whole, rows, rows),
        out_specs=whole,
        check_vma=check_vma,
    )
    return jax.jit(mapped)(params, x0, x1)


def four_devices():
    return Mesh(np.array(jax.devices()[:4]), (axis.AXIS,))


@pytest.mark.parametrize(
    "place",
    [
        on_sharded_jit,
        on_pmap,
        functools.partial(on_shard_map, check_vma=True),
        functools.partial(on_shard_map, check_vma=False),
    ],
    ids=["sharded_jit", "pmap", "shard_map", "shard_map_unchecked"],
)
def test_four_devices_give_the_gradient_of_one(place):
    """Gradients W times too small or large, or of one rank's rows: lightly#1528, open_clip#616."""
    random = np.random.default_rng(0)
    x0, x1 = np.float32(random.normal(size=(2, 16, 6)))
    encoder = np.float32(random.normal(size=(6, 3)))
    params = {"encoder": encoder, "temperature": np.float32(0.2)}
    values, expected = on_one_device(params, x0, x1)
    placed_values, placed = place(params, x0, x1)
    np.testing.assert_allclose(placed_values, values, rtol=1e-5)
    for name, gradient in expected.items():
        a, b = np.ravel(placed[name]), np.ravel(gradient)
        norms = np.linalg.norm(a), np.linalg.norm(b)
        assert norms[0] / norms[1] == pytest.approx(1, abs=1e-5), name
        assert a @ b / (norms[0] * norms[1]) == pytest.approx(1, abs=1e-5), name
