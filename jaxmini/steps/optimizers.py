"""Optimizers as frozen dataclasses: what a recipe writes down, turned into optax when the length is known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from jaxmini.state import PyTree


@dataclasses.dataclass(frozen=True)
class sgd:
    """SGD with momentum; learning rate rises linearly, then falls as a cosine to zero.

    Attributes:
        learning_rate: the peak.
        momentum: in [0, 1), Nesterov's form.
        weight_decay: added to the gradient of kernels (leaves of two or more dimensions) only.
        warmup: share of all steps spent rising, in [0, 1).
        clip: largest global norm of a gradient; None for no limit.
    """

    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.15
    clip: float | None = None

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, total_steps: int) -> optax.GradientTransformation:
        return optax.chain(
            _clip(self.clip),
            optax.add_decayed_weights(self.weight_decay, mask=_kernels),
            optax.sgd(
                _schedule(self.learning_rate, self.warmup, total_steps),
                self.momentum,
                nesterov=True,
            ),
        )


@dataclasses.dataclass(frozen=True)
class adamw:
    """AdamW (Loshchilov & Hutter 2019); learning rate rises linearly, then falls as a cosine to zero.

    Attributes:
        learning_rate: the peak.
        weight_decay: decoupled, of kernels (leaves of two or more dimensions) only.
        warmup: share of all steps spent rising, in [0, 1).
        clip: largest global norm of a gradient; None for no limit.
    """

    learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.15
    clip: float | None = None

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, total_steps: int) -> optax.GradientTransformation:
        schedule = _schedule(self.learning_rate, self.warmup, total_steps)
        return optax.chain(
            _clip(self.clip), optax.adamw(schedule, weight_decay=self.weight_decay, mask=_kernels)
        )


def _check(optimizer: sgd | adamw) -> None:
    """Refuse hyper-parameters outside their ranges."""
    name = type(optimizer).__name__
    if not 0 < optimizer.learning_rate < math.inf:
        raise ValueError(
            f"{name}: learning_rate must be positive and finite, got {optimizer.learning_rate}"
        )
    if isinstance(optimizer, sgd) and not 0 <= optimizer.momentum < 1:
        raise ValueError(f"{name}: momentum must be in [0, 1), got {optimizer.momentum}")
    if not 0 <= optimizer.warmup < 1:
        raise ValueError(
            f"{name}: warmup is the share of steps spent rising, in [0, 1); got {optimizer.warmup}"
        )
    if not 0 <= optimizer.weight_decay < math.inf:
        raise ValueError(
            f"{name}: weight_decay must be finite and not negative, got {optimizer.weight_decay}"
        )
    if optimizer.clip is not None and not 0 < optimizer.clip < math.inf:
        raise ValueError(f"{name}: clip must be positive and finite, or None; got {optimizer.clip}")


def _schedule(peak: float, warmup: float, total_steps: int) -> optax.Schedule:
    rising = max(1, round(warmup * total_steps))
    schedule = optax.warmup_cosine_decay_schedule(
        peak / rising, peak, rising, max(total_steps, rising + 1)
    )
    # The count is an integer, and optax divides it by a float: not allowed under strict promotion.
    return lambda count: schedule(jnp.float32(count))


def _clip(norm: float | None) -> optax.GradientTransformation:
    return optax.identity() if norm is None else optax.clip_by_global_norm(norm)


def _kernels(params: PyTree) -> PyTree:
    """True where weight decay applies: kernels, not biases and not BatchNorm's scales."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
