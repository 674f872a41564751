"""Axis: what a device holds becomes what all hold under pmap, and stays what it is everywhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxmini import axis

DEVICES = 4
X = np.random.default_rng(0).normal(size=(DEVICES, 2, 3)).astype(np.float32)


def seen(rows: jax.Array) -> dict[str, jax.Array]:
    tree = {"rows": rows}
    return {
        "mean": axis.mean(tree)["rows"],
        "maximum": axis.maximum(tree)["rows"],
        "minimum": axis.minimum(tree)["rows"],
        "gather": axis.gather(tree)["rows"],
        "mapped": jnp.bool_(axis.is_mapped()),
    }


def test_where_nothing_is_mapped_a_tree_is_itself():
    tree = {"rows": X[0]}
    for function in (axis.mean, axis.maximum, axis.minimum, axis.gather):
        assert function(tree) is tree
    assert not axis.is_mapped()
    assert not jax.vmap(seen)(X)["mapped"].any()  # an axis without the name is none


@pytest.mark.parametrize("by", ["pmap", "shard_map"])
def test_every_device_sees_the_whole(by: str):
    devices = jax.devices()[:DEVICES]
    if by == "pmap":
        found = jax.pmap(seen, axis.AXIS, devices=devices)(X)
    else:
        mesh, spec = Mesh(np.array(devices), (axis.AXIS,)), PartitionSpec(axis.AXIS)
        one = jax.shard_map(
            lambda x: jax.tree.map(lambda y: y[None], seen(x[0])),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
            check_vma=False,
        )
        found = jax.jit(one)(X)
    assert found["mapped"].all()
    for device in range(DEVICES):
        np.testing.assert_allclose(found["mean"][device], X.mean(0), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(found["maximum"][device], X.max(0))
        np.testing.assert_array_equal(found["minimum"][device], X.min(0))
        np.testing.assert_array_equal(found["gather"][device], X.reshape(-1, 3))
    assert not axis.is_mapped()


@pytest.mark.parametrize("check_vma", [False, True])
def test_one_device_alone_holds_the_whole(check_vma: bool):
    def loss(x: jax.Array) -> jax.Array:
        return axis.mean(jnp.sum(axis.gather(x) ** 2))

    def gradient(x: jax.Array) -> jax.Array:
        return axis.mean(jax.grad(loss)(x))

    whole, spec = X[0], PartitionSpec()
    mesh = Mesh(np.array(jax.devices()[:1]), (axis.AXIS,))
    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)
    program = jax.jit(mapped).lower(whole)
    np.testing.assert_array_equal(program.compile()(whole), 2 * whole)
    # What varies is made one by a sum where that is checked, and nowhere else.
    assert ("all_reduce" in program.as_text()) == check_vma


def test_pmap_of_one_device_sums_over_no_devices():
    mapped = jax.pmap(seen, axis.AXIS, devices=jax.devices()[:1])
    assert "all_" not in mapped.lower(X[:1]).as_text()
    assert not mapped(X[:1])["mapped"].any()


def test_gradients_through_gather_reach_their_rows():
    x = jnp.arange(8.0).reshape(4, 2)

    def loss(rows):
        return axis.mean(jnp.sum(axis.gather(rows) ** 2))

    grads = jax.pmap(lambda rows: axis.mean(jax.grad(loss)(rows) * 1.0), axis.AXIS)(x)
    # the mean over devices of what each device's rows get
    np.testing.assert_allclose(grads[0], jnp.mean(2 * 4 * x, 0))
