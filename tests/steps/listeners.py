"""A linear network that notes how it is called, and a loss that tells what it is given."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmini.model import Model, Variables
from jaxmini.state import Array, Batch, Metrics


def noted(calls: list[tuple]) -> Model:
    """Inputs [B, I] times ``w`` [I, O]; adds ``(inputs, train, key, w)`` to the calls."""

    def init(key: Array, inputs: Array) -> Variables:
        return {"params": {"w": jax.random.normal(key, (inputs.shape[-1], 3))}}

    def apply(
        variables: Variables, inputs: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, Variables]:
        w = variables["params"]["w"]
        calls.append((inputs, train, key, w))
        return inputs @ w, {"calls": {"n": jnp.int32(len(calls))}} if train else {}

    return Model(init, apply)


def listening(batches: list[Batch]) -> Callable:
    """The sum of all signals as a loss, the signals as its metrics; adds the batch to the batches."""

    def loss(signals: dict[str, Array], batch: Batch) -> tuple[Array, Metrics]:
        batches.append(batch)
        return sum(jnp.sum(signal) for signal in signals.values()), dict(signals)

    return loss
