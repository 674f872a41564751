"""Schedule: from which update on activations are rounded, and from which on their grids stand still.

The count of updates is a variable of the model, so that a run that was stopped goes on bit for bit.
"""

import dataclasses
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.state import Array

Clock: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class phases:
    """When training rounds activations and moves their grids. Inference always rounds.

    Attributes:
        start: updates at first in which activations stay float, and ranges follow what is seen.
        freeze: updates after which grids stay as they are, learned ones too; None for never.
    """

    start: int = 0
    freeze: int | None = None

    def __post_init__(self) -> None:
        for name, count in (("start", self.start), ("freeze", self.freeze)):
            if count is not None and not (isinstance(count, int) and count >= 0):
                raise ValueError(f"phases: {name} is {count!r}, expected an integer >= 0")
        if self.freeze is not None and self.freeze < self.start:
            raise ValueError(
                f"phases: grids freeze after {self.freeze} updates and are used from {self.start} on: "
                "freeze later"
            )

    def is_observing(self, step: Array) -> Array:
        """Whether activations are still float after ``step`` updates, bool []."""
        return step < self.start

    def is_frozen(self, step: Array) -> Array:
        """Whether the next update leaves grids alone, bool []."""
        return jnp.bool_(False) if self.freeze is None else step >= self.freeze


@dataclasses.dataclass(frozen=True)
class cosine:
    """A number that goes from ``first`` to ``last`` along half a cosine within ``steps`` updates."""

    first: float
    last: float
    steps: int

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            if not math.isfinite(end := getattr(self, name)):
                raise ValueError(f"cosine: {name} is {end}, expected a finite number")
        if not (isinstance(self.steps, int) and self.steps >= 1):
            raise ValueError(f"cosine: steps is {self.steps}, expected an integer of at least 1")

    def __call__(self, step: Array) -> Array:
        """The number after so many updates, float32 []."""
        part = jnp.minimum(jnp.float32(step) * np.float32(1 / self.steps), 1.0)
        return self.first + (self.last - self.first) * 0.5 * (1 - jnp.cos(np.float32(np.pi) * part))


def at(number: float | cosine, step: Array) -> Array:
    """A number after ``step`` updates, float32 []."""
    return jnp.float32(number(step) if isinstance(number, cosine) else number)


def first_clock(added: Any) -> Clock:
    """The clock before any update.

    Args:
        added: what training has added to the grids, if that is to freeze one day; a copy is kept.
    """
    held = {"held": jax.tree.map(jnp.copy, added)} if added else {}
    return {"step": jnp.int32(0), "is_frozen": jnp.bool_(False), **held}


def in_force(clock: Clock, added: Any) -> Any:
    """What training has added to the grids, or had when they froze."""
    if "held" not in clock:
        return added
    return jax.tree.map(
        lambda held, now: jnp.where(clock["is_frozen"], held, now), clock["held"], added
    )


def ticked(when: phases, clock: Clock, added: Any) -> Clock:
    """The clock after one more update.

    The optimizer moves what is learned after this, so what it held at the start of update ``freeze`` is kept.
    """
    step = clock["step"] + 1
    held = {"held": in_force(clock, jax.lax.stop_gradient(added))} if "held" in clock else {}
    frozen = jnp.bool_(False) if when.freeze is None else step > when.freeze
    return {"step": step, "is_frozen": frozen, **held}
