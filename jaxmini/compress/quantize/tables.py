"""Tables: what the kernels of an integer file compute for functions of one number, in integers.

Integers are centred: ``q - zero_point`` in float32.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.grid import HIGH, LOW, Grid
from jaxmini.state import Array

LEVELS = np.arange(LOW, HIGH + 1)


def looked_up(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Array, Grid, Grid], Array]:
    """A function by the table of its 256 values, ties to even."""

    def integers(inputs: Array, source: Grid, target: Grid) -> Array:
        scale = np.float64(np.float32(source.scale))
        steps = np.rint(function((LEVELS - int(source.zero_point)) * scale) / np.float64(np.float32(target.scale)))
        zero_point = int(target.zero_point)
        table = np.clip(steps, LOW - zero_point, HIGH - zero_point).astype(np.float32)
        return jnp.asarray(table)[inputs.astype(jnp.int32) + (int(source.zero_point) - LOW)]

    return integers


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


sigmoid = looked_up(lambda x: 1 / (1 + np.exp(-x)))
tanh = looked_up(np.tanh)
gelu = looked_up(_gelu)
hard_swish = looked_up(lambda x: x * np.clip(x + 3, 0, 6) / 6)


def leaky_relu(slope: float, inputs: Array, source: Grid, target: Grid) -> Array:
    return looked_up(lambda x: np.where(x >= 0, x, slope * x))(inputs, source, target)


def softmax(inputs: Array, source: Grid, target: Grid) -> Array:
    """Along the last axis; exponentials in float32, rounded half up."""
    scale = np.float32(source.scale)
    weights = jnp.exp((inputs - jnp.max(inputs, -1, keepdims=True)) * scale)
    shares = weights / jnp.sum(weights, -1, keepdims=True)
    return jnp.minimum(jnp.floor(shares / np.float32(target.scale) + 0.5), HIGH - LOW)


def log_softmax(inputs: Array, source: Grid, target: Grid) -> Array:
    """Along the last axis."""
    logits = inputs * np.float32(source.scale)
    zero_point = int(target.zero_point)
    steps = jnp.round(jax.nn.log_softmax(logits) / np.float32(target.scale))
    return jnp.clip(steps, LOW - zero_point, HIGH - zero_point)
