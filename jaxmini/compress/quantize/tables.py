"""Tables: what the kernels of an integer file compute for functions of one number, in integers.

Integers are centred: ``q - zero_point`` in float32.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize import roots
from jaxmini.compress.quantize.grid import HIGH, LOW, Grid
from jaxmini.state import Array

LEVELS = np.arange(LOW, HIGH + 1)


def looked_up(steps: np.ndarray, inputs: Array, source: Grid, target: Grid) -> Array:
    """Each input's entry of a table of centred integers, one for each integer of ``source``."""
    low, high = target.low - int(target.zero_point), target.high - int(target.zero_point)
    table = jnp.asarray(np.clip(steps, low, high), jnp.float32)
    return table[inputs.astype(jnp.int32) + (int(source.zero_point) - LOW)]


def rounded(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Array, Grid, Grid], Array]:
    """A function of one number, rounded to the nearest integer, ties to even."""

    def integers(inputs: Array, source: Grid, target: Grid) -> Array:
        numbers = (LEVELS - int(source.zero_point)) * np.float64(np.float32(source.scale))
        steps = np.rint(function(numbers) / np.float64(np.float32(target.scale)))
        return looked_up(steps, inputs, source, target)

    return integers


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


sigmoid = rounded(lambda x: 1 / (1 + np.exp(-x)))
tanh = rounded(np.tanh)
gelu = rounded(_gelu)


def rsqrt(inputs: Array, source: Grid, target: Grid) -> Array:
    """TensorFlow Lite's iteration in fixed point."""
    scales = np.float32(source.scale), np.float32(target.scale)
    steps = roots.table(*scales, (int(source.zero_point), int(target.zero_point)))
    return looked_up(steps, inputs, source, target)


def leaky_relu(slope: float, inputs: Array, source: Grid, target: Grid) -> Array:
    """XNNPACK's fixed point: multipliers of 8 fractional bits, a rounding to 2**-7 and one to integers."""
    ratio = np.float32(source.scale) / np.float32(target.scale)
    numbers = LEVELS - int(source.zero_point)
    multipliers = [np.rint(np.float32(256) * r) for r in (np.float32(slope) * ratio, ratio)]
    steps = numbers * np.where(numbers < 0, *multipliers).astype(np.int64)
    return looked_up((steps + 128) >> 8, inputs, source, target)


def hard_swish(inputs: Array, source: Grid, target: Grid) -> Array:
    """TensorFlow Lite's 16-bit fixed point (tensorflow/lite/kernels/internal/reference/hard_swish.h)."""
    fine = (LEVELS - int(source.zero_point)) << 7
    scale = np.float32(source.scale) * np.float32(1 / 128)
    multiplier, exponent = _fixed_point(scale / np.float32(target.scale))
    outputs = _rounding_product(fine, multiplier)
    gate = fine
    multiplier, shift = _fixed_point(scale / np.float32(3 / 32768))
    if shift > 0:
        gate = _int16(gate << (shift - 1))
    gate = _rounding_product(gate, multiplier)
    gate = _int16(gate << 1) if shift > 0 else _rounding_shift(gate, -shift)
    gate = (gate + 2**15) >> 1
    products = np.trunc(gate * outputs / 2**15).astype(np.int64)
    return looked_up(_rounding_shift(products, -exponent), inputs, source, target)


def _fixed_point(factor: np.float32) -> tuple[int, int]:
    """``multiplier / 2**15 * 2**exponent``, the multiplier an int16 of at least 2**14."""
    fraction, exponent = math.frexp(float(factor))
    wide = math.floor(fraction * 2**31 + 0.5)
    if wide == 2**31:
        wide, exponent = wide // 2, exponent + 1
    return min((wide + 2**15) >> 16, 2**15 - 1), exponent


def _int16(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -(2**15), 2**15 - 1)


def _rounding_product(values: np.ndarray, multiplier: int) -> np.ndarray:
    """``values * multiplier / 2**15``, ties away from zero."""
    products = values * multiplier
    nudged = products + np.where(products >= 0, 2**14, 1 - 2**14)
    return np.trunc(nudged / 2**15).astype(np.int64)


def _rounding_shift(values: np.ndarray, bits: int) -> np.ndarray:
    """``values / 2**bits``, ties away from zero."""
    mask = (1 << bits) - 1
    return (values >> bits) + ((values & mask) > (mask >> 1) + (values < 0))


def softmax(inputs: Array, source: Grid, target: Grid) -> Array:
    """Along the last axis: a table of exponentials in float32, added in order, rounded half up."""
    below = -np.float32(source.scale) * np.arange(HIGH - LOW + 1, dtype=np.float32)
    table = jnp.asarray(np.exp(below.astype(np.float64)), jnp.float32)
    weights = table[(jnp.max(inputs, -1, keepdims=True) - inputs).astype(jnp.int32)]
    columns = jnp.moveaxis(weights, -1, 0)
    total, _ = lax.scan(lambda total, w: (total + w, None), jnp.zeros_like(columns[0]), columns)
    inverse = 1 / (total[..., None] * np.float32(target.scale))
    return jnp.minimum(jnp.floor(weights * inverse + 0.5), HIGH - LOW)


def log_softmax(inputs: Array, source: Grid, target: Grid) -> Array:
    """Along the last axis; in float32, rounded to even."""
    logits = (inputs - jnp.max(inputs, -1, keepdims=True)) * np.float32(source.scale)
    logits = logits - jnp.log(jnp.sum(jnp.exp(logits), -1, keepdims=True))
    zero_point = int(target.zero_point)
    steps = jnp.round(logits / np.float32(target.scale))
    return jnp.clip(steps, target.low - zero_point, target.high - zero_point)
