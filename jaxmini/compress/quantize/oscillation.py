"""Oscillation: weights that jump between two integers while training, watched, frozen or dampened.

After Nagel et al., "Overcoming Oscillations in Quantization-Aware Training", 2022: section 3 says what
oscillates (equation 3), section 4 what to do about it.
"""

import dataclasses
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize.schedule import at, cosine
from jaxmini.state import Array

History: TypeAlias = dict[str, Array]

# No kernel has this integer: it stands for a weight that has not been seen.
UNSEEN = -128
# The frequency from which the paper counts a weight as oscillating (table 1).
OSCILLATING = 0.005


@dataclasses.dataclass(frozen=True)
class monitoring:
    """How often each weight's integer changes back; reported as the share of weights that oscillate.

    Attributes:
        momentum: weight of the newest update in the moving averages, 0..1, exclusive (m in the paper).
    """

    momentum: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.momentum < 1:
            raise ValueError(
                f"{type(self).__name__}: momentum is {self.momentum}, expected 0 < m < 1"
            )

    def threshold_at(self, step: Array) -> Array:
        """The frequency above which a weight freezes after ``step`` updates."""
        return jnp.float32(np.inf)

    def penalty(self, kernel: Array, scale: Array, limit: int, step: Array) -> Array | None:
        """What the objective gets for a kernel [..., O] besides the loss, float32 []; None for nothing."""
        return None


@dataclasses.dataclass(frozen=True)
class freezing(monitoring):
    """A weight that oscillates too often stays at its average integer (section 4.3, algorithm 1).

    Attributes:
        threshold: frequency above which that is, 0..1; ``cosine(0.04, 0.01, steps)`` lowers it.
    """

    threshold: float | cosine = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "threshold", most=1.0)

    def threshold_at(self, step: Array) -> Array:
        return at(self.threshold, step)


@dataclasses.dataclass(frozen=True)
class dampening(monitoring):
    """Pulls weights to the middle of their integers: ``strength * |w_hat - clip(w)|**2`` (equation 5).

    The kernel that counts is the one that is rounded, with BatchNorm folded into it.

    Attributes:
        strength: of the term in the objective; ``cosine(0, 1e-3, steps)`` raises it.
    """

    strength: float | cosine = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "strength")

    def penalty(self, kernel: Array, scale: Array, limit: int, step: Array) -> Array:
        scale = lax.stop_gradient(scale).reshape((1,) * (kernel.ndim - 1) + (-1,))
        steps = lax.stop_gradient(kernel) / scale
        # Neither the middles of the integers nor a weight that is clipped has a gradient.
        inside = jnp.where(jnp.abs(steps) > limit, lax.stop_gradient(kernel), kernel)
        clipped = jnp.where(jnp.abs(steps) > limit, jnp.sign(steps) * limit * scale, inside)
        middles = jnp.clip(jnp.round(steps), -limit, limit) * scale
        return at(self.strength, step) * jnp.sum(jnp.square(middles - clipped))


def unseen(shape: tuple[int, ...]) -> History:
    """The history of a kernel's integers before any update."""
    return {
        "integers": jnp.full(shape, UNSEEN, jnp.int8),
        "direction": jnp.zeros(shape, jnp.int8),
        "frequency": jnp.zeros(shape, jnp.float32),
        "average": jnp.zeros(shape, jnp.float32),
        "is_frozen": jnp.zeros(shape, jnp.bool_),
    }


def held(kernel: Array, scale: Array, history: History) -> Array:
    """The kernel [..., O] with the numbers of its frozen integers in place of those weights."""
    row = scale.reshape((1,) * (kernel.ndim - 1) + (-1,))
    return jnp.where(history["is_frozen"], jnp.float32(history["integers"]) * row, kernel)


def followed(
    history: History, kernel: Array, scale: Array, limit: int, kind: monitoring, step: Array
) -> History:
    """The history after one more update, in which ``kernel`` [..., O], as ``held`` left it, was rounded.

    A change of an integer is an oscillation if the change before it went the other way. A weight that is
    frozen by it is so from the next update on.
    """
    kernel, scale = lax.stop_gradient(kernel), lax.stop_gradient(scale)
    row = scale.reshape((1,) * (kernel.ndim - 1) + (-1,))
    integers = jnp.clip(jnp.round(kernel / row), -limit, limit)
    before, is_first = jnp.float32(history["integers"]), history["integers"] == UNSEEN
    change = jnp.where(is_first, 0.0, jnp.sign(integers - before)).astype(jnp.int8)
    turned = jnp.float32(change * history["direction"] == -1)
    m = np.float32(kind.momentum)
    frequency = m * turned + (1 - m) * history["frequency"]
    average = jnp.where(is_first, integers, m * integers + (1 - m) * history["average"])
    freezes = ~history["is_frozen"] & (frequency > kind.threshold_at(step))
    return {
        "integers": jnp.where(freezes, jnp.round(average), integers).astype(jnp.int8),
        "direction": jnp.where(change == 0, history["direction"], change),
        "frequency": frequency,
        "average": average,
        "is_frozen": history["is_frozen"] | freezes,
    }


def figures(histories: dict[str, History]) -> dict[str, Array]:
    """The share of all weights that oscillate and are not frozen, and of those that are, float32 []."""
    frozen = [history["is_frozen"] for history in histories.values()]
    often = [
        (history["frequency"] > OSCILLATING) & ~history["is_frozen"]
        for history in histories.values()
    ]
    total = np.float32(1 / sum(leaf.size for leaf in frozen))
    return {
        name: sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in leaves) * total
        for name, leaves in (("oscillating", often), ("frozen", frozen))
    }


def _check(kind: monitoring, name: str, most: float = np.inf) -> None:
    """Raise ValueError if a number, or one of the ends of its way, is not finite or not in 0..most."""
    number = getattr(kind, name)
    ends = (number.first, number.last) if isinstance(number, cosine) else (number,)
    if not all(0 <= end <= most and end < np.inf for end in ends):
        expected = "finite number >= 0" if most == np.inf else f"number in 0..{most:g}"
        raise ValueError(f"{type(kind).__name__}: {name} is {number}, expected a {expected}")
