"""Loss: ``(signals, batch) -> (scalar, metrics)``, and the algebra that composes losses.

A loss is a frozen dataclass: its fields are its hyper-parameters. ``signals`` maps names to network
outputs, so one loss serves every step that provides what it reads. Losses contain no parameters and no
collectives: they see the whole batch. A plain function of the same signature is as good.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias, Union

import jax
import jax.numpy as jnp

from jaxmini.near_miss import did_you_mean
from jaxmini.state import Array, Batch, Metrics

Signals: TypeAlias = Mapping[str, Array]
LossLike: TypeAlias = Union["Loss", Callable[[Signals, Batch], tuple[Array, Metrics]]]


class Loss:
    """What every loss can do: be weighted, be added. Subclasses are frozen dataclasses with ``__call__``."""

    def __call__(self, signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is computed")

    def __mul__(self, weight: float) -> "Weighted":
        return Weighted(float(weight), self)

    __rmul__ = __mul__

    def __add__(self, other: LossLike) -> "Sum":
        return Sum((*_terms(self), *_terms(other)))

    def __radd__(self, other: LossLike | int) -> "Loss":
        if isinstance(other, int) and other == 0:  # what sum() starts from
            return self
        return Sum((*_terms(other), *_terms(self)))


@dataclasses.dataclass(frozen=True)
class Weighted(Loss):
    """A loss times a finite constant. Its metrics stay those of the unweighted loss."""

    weight: float
    loss: LossLike

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(
                f"{self.loss!r}: its weight is {self.weight}, expected a finite number"
            )

    def __call__(self, signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
        value, metrics = self.loss(signals, batch)
        return self.weight * value, metrics


@dataclasses.dataclass(frozen=True)
class Sum(Loss):
    """The sum of several losses. Metrics of terms that share a name are told apart by position."""

    terms: tuple[LossLike, ...]

    def __call__(self, signals: Signals, batch: Batch) -> tuple[Array, Metrics]:
        total, metrics = jnp.float32(0), {}
        for index, term in enumerate(self.terms):
            value, own = term(signals, batch)
            total = total + value
            for name, metric in own.items():
                metrics[name if name not in metrics else _free(f"{name}_{index}", metrics)] = metric
        return total, metrics


def read(signals: Signals, name: str, loss: object) -> Array:
    """The signal of that name.

    Raises:
        KeyError: the step does not provide it; names the loss, the signal and what there is.
    """
    if name in signals:
        return signals[name]
    raise KeyError(
        f"{type(loss).__name__} reads the signal {name!r}, which this step does not provide; "
        f"it provides {', '.join(sorted(signals))}{did_you_mean(name, signals)}"
    )


def batch_mean(per_example: Array, batch: Batch) -> Array:
    """Mean over the valid examples, float32 []: rows whose ``batch["mask"]`` is 0 have no influence.

    Args:
        per_example: [B].
        batch: ``mask`` [B] in {0, 1} is optional; without it every row counts.
    """
    mask = batch.get("mask")
    if mask is None:
        return jnp.mean(per_example.astype(jnp.float32))
    # The rows are replaced, not multiplied: 0 * inf of a padded row would be NaN.
    kept = jnp.where(mask.astype(bool), per_example.astype(jnp.float32), 0.0)
    return jnp.sum(kept) / jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1.0)


def stop(signal: Array) -> Array:
    """The signal without a way back for gradients (a teacher's)."""
    return jax.lax.stop_gradient(signal)


def _free(name: str, taken: Mapping[str, Array]) -> str:
    """The name, with a prime for every time it is taken."""
    while name in taken:
        name += "'"
    return name


def _terms(loss: LossLike) -> tuple[LossLike, ...]:
    return loss.terms if isinstance(loss, Sum) else (loss,)
