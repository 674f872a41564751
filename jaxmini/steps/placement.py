"""Placement: where a step runs. The only module that knows devices.

A step is written for the whole batch on one device. ``jit`` lays it over a mesh, ``pmap`` runs one copy a
device; the parameters that come out are the same up to float rounding.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmini import axis
from jaxmini.state import Batch, Metrics, PyTree, State
from jaxmini.steps.update import Step


class Placed(NamedTuple):
    """A step on its devices.

    Attributes:
        step: ``(state, frozen, batch) -> (state, metrics)``; takes the given state's memory for the next.
        replicate: puts a tree (state, frozen) whole onto every device.
        shard: a host batch as the step takes it, which puts its rows onto the devices they are for.
        fetch: this process's own copy of a replicated tree, on one device.
        devices: how many devices share a batch.
    """

    step: Callable[[State, PyTree, Batch], tuple[State, Metrics]]
    replicate: Callable[[PyTree], PyTree]
    shard: Callable[[dict[str, np.ndarray]], Batch | dict[str, np.ndarray]]
    fetch: Callable[[PyTree], PyTree]
    devices: int


def jit(step: Step, devices: Sequence[jax.Device] | None = None) -> Placed:
    """One global program over a mesh of the devices (all of them by default): state whole, batch divided.

    Works across processes: each gives the same host batch and keeps the rows of its own devices.
    """
    mesh = _mesh(devices)
    whole, rows = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec(axis.AXIS)),
    )
    # A batch goes to the compiled step as it is: a device_put before costs more than a small step's work.
    placed = jax.jit(
        step, donate_argnums=0, in_shardings=(whole, whole, rows), out_shardings=(whole, whole)
    )
    return Placed(placed, _putter(whole), _row_divider(rows, mesh.size), _fetch, mesh.size)


def pmap(step: Step, devices: Sequence[jax.Device] | None = None) -> Placed:
    """One copy of the step a device over the mapped axis ``"batch"``; state whole, batch divided."""
    devices = jax.local_devices() if devices is None else list(devices)
    if jax.process_count() > 1:
        raise ValueError(
            "pmap places a step on one process's devices; use jit for several processes"
        )
    mapped = jax.pmap(
        step, axis.AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0, devices=devices
    )
    whole = NamedSharding(_mesh(devices), PartitionSpec())

    def shard(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        _check_divides(batch, len(devices))
        return {k: v.reshape(len(devices), -1, *v.shape[1:]) for k, v in batch.items()}

    return Placed(mapped, _putter(whole), shard, _fetch, len(devices))


PLACEMENTS = {"jit": jit, "pmap": pmap}


def _mesh(devices: Sequence[jax.Device] | None) -> Mesh:
    return Mesh(np.array(jax.devices() if devices is None else list(devices)), (axis.AXIS,))


def _putter(sharding: NamedSharding) -> Callable[[PyTree], PyTree]:
    # Copies: the step takes a state's memory for the next one, and device_put may hand out memory that
    # somebody else still reads.
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=sharding)


def _row_divider(
    rows: NamedSharding, devices: int
) -> Callable[[dict[str, np.ndarray]], Batch | dict[str, np.ndarray]]:
    def shard(batch: dict[str, np.ndarray]) -> Batch | dict[str, np.ndarray]:
        _check_divides(batch, devices)
        if jax.process_count() == 1:
            return batch
        place = jax.make_array_from_callback
        return {k: place(v.shape, rows, lambda index, v=v: v[index]) for k, v in batch.items()}

    return shard


def _fetch(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def _check_divides(batch: dict[str, np.ndarray], devices: int) -> None:
    size = len(batch["image"])
    if size % devices:
        near = max(devices, size // devices * devices)
        raise ValueError(
            f"batch_size {size} does not divide among {devices} devices; "
            f"use a multiple of {devices}, {near} say"
        )
