"""Grid: the affine map between 2**bits integers and the numbers they stand for, and rounding onto one.

``value = scale * (q - zero_point)``, q of 8 bits as a rule: -128..127. Kernels use zero point 0 and
[-127, 127], one scale an output channel (the LiteRT 8-bit quantization specification). Grids of 16 bits have
zero point 0, as every kernel of int16 activations demands.
"""

import dataclasses
import functools
import operator
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array: TypeAlias = jax.Array | np.ndarray

# Bits of the integers of activations: those of a file as a rule, fewer in training, or WIDE.
FEWEST_BITS, BITS, WIDE = 2, 8, 16
LOW, HIGH = -128, 127
KERNEL_LIMIT = 127
# Steps are products with these constants, never quotients: XLA rewrites x / 255 as x * (1/255), NumPy does
# not, and the two differ in the last bit.
PER_STEP = np.float32(1 / (HIGH - LOW))
# A range that was never wider than nothing still needs a step that can be divided by.
SMALLEST_RANGE = np.float32(1e-8)
SMALLEST_KERNEL = np.float32(1e-6)
# A bias is an int32 on the grid input scale * kernel scale. A quarter of the range is left to the products.
LARGEST_BIAS = np.float32(2.0**30)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["scale", "zero_point"], meta_fields=["bits"]
)
@dataclasses.dataclass(frozen=True)
class Grid:
    """Equally spaced numbers ``scale * (q - zero_point)``, q = low..high.

    Attributes:
        scale: distance of neighbours, float32 > 0, [].
        zero_point: the integer that stands for 0, int32 in low..high, [].
        bits: of q, 2..8 or 16; static, where the others may be traced.
    """

    scale: Array | float
    zero_point: Array | int
    bits: int = BITS

    @property
    def low(self) -> int:
        """The least integer."""
        return -(2 ** (self.bits - 1))

    @property
    def high(self) -> int:
        """The greatest integer."""
        return 2 ** (self.bits - 1) - 1

    @property
    def dtype(self) -> np.dtype:
        """What holds an integer of the grid."""
        return np.dtype(np.int16 if self.bits == WIDE else np.int8)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its fields, as ``numpy.savez`` takes them; the bits where they are not the usual ones."""
        fields = {"scale": self.scale, "zero_point": self.zero_point}
        fields |= {} if self.bits == BITS else {"bits": self.bits}
        return {name: np.asarray(value) for name, value in fields.items()}

    @classmethod
    def from_arrays(
        cls, scale: np.ndarray, zero_point: np.ndarray, bits: np.ndarray | int = BITS
    ) -> "Grid":
        """What ``arrays`` was made of."""
        return cls(scale, zero_point, int(bits))


def as_bits(bits: object) -> object:
    """Bits as an ``int`` where they are a whole number of any type, NumPy's for one; else as they are."""
    try:
        return bits if isinstance(bits, bool) else operator.index(bits)
    except TypeError:
        return bits


def covering(low: Array, high: Array, bits: int = BITS, *, centred: bool = False) -> Grid:
    """The grid that spans [low, high] and holds 0 exactly; ``low`` <= 0 <= ``high``, float32 [].

    It has zero point 0 if it is ``centred``, as all of 16 bits are.
    """
    if centred or bits == WIDE:
        return _centred(jnp.maximum(jnp.maximum(-low, high), SMALLEST_RANGE), bits)
    bottom, top = ends(bits)
    scale = jnp.maximum(high - low, SMALLEST_RANGE) * np.float32(1 / (top - bottom))
    zero_point = jnp.clip(jnp.round(bottom - low / scale), bottom, top)
    return Grid(scale, zero_point.astype(jnp.int32), bits)


def symmetric(values: Array, bits: int = BITS) -> Grid:
    """The grid with zero point 0 that spans a constant's values, by its largest magnitude."""
    return _centred(jnp.maximum(jnp.max(jnp.abs(values)), SMALLEST_KERNEL), bits)


def _centred(largest: Array, bits: int) -> Grid:
    """The grid with zero point 0 whose greatest integer stands for ``largest``."""
    _, top = ends(bits)
    return Grid(largest * np.float32(1 / top), np.int32(0), bits)


def ends(bits: int) -> tuple[int, int]:
    """The least and the greatest integer of so many bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def least(grid: Grid) -> Array:
    """The least number of a grid, float32 []."""
    return (grid.low - jnp.float32(grid.zero_point)) * jnp.float32(grid.scale)


def quantized(values: Array, grid: Grid) -> jax.Array:
    """The nearest integers of the grid, int8 or int16, ties to even; numbers outside become its ends."""
    steps = jnp.round(values * (1 / grid.scale)) + jnp.float32(grid.zero_point)
    return jnp.clip(steps, grid.low, grid.high).astype(grid.dtype)


def dequantized(integers: Array, grid: Grid) -> jax.Array:
    """The numbers that integers stand for, float32."""
    return (jnp.float32(integers) - jnp.float32(grid.zero_point)) * jnp.float32(grid.scale)


def straight_through(values: Array, rounded: Array) -> jax.Array:
    """``rounded``, bit for bit, with the gradient of ``values`` (Bengio et al., 2013)."""
    return (values - lax.stop_gradient(values)) + lax.stop_gradient(rounded)


def fake_quant_steps(values: Array, scale: Array) -> jax.Array:
    """Values [..., O] rounded to whole steps of ``scale`` [O], ties to even; the gradient is 1."""
    scale = scale.reshape((1,) * (values.ndim - 1) + (-1,))
    return straight_through(values, jnp.round(values / scale) * scale)


def fake_quant(values: Array, grid: Grid) -> jax.Array:
    """Values rounded onto the grid, ties to even; the gradient is 1 inside its range and 0 outside.

    The range is not differentiated (Jacob et al., 2018, section 3.1).
    """
    zero_point = jnp.float32(grid.zero_point)
    low, high = (grid.low - zero_point) * grid.scale, (grid.high - zero_point) * grid.scale
    # Not jnp.clip: its gradient at the two ends is 1/2.
    inside = jnp.where(values < low, low, jnp.where(values > high, high, values))
    return straight_through(inside, jnp.round(inside * (1 / grid.scale)) * grid.scale)


def fake_quant_average(values: Array, grid: Grid) -> jax.Array:
    """Averages of numbers on the grid, rounded onto it with ties away from zero, straight-through.

    Average pooling is the one 8-bit kernel that rounds so. A tie is one of the integers q, not of
    q - zero_point.
    """
    zero_point = jnp.float32(grid.zero_point)
    steps = values * (1 / grid.scale) + zero_point
    steps = jnp.trunc(steps + jnp.copysign(jnp.float32(0.5), steps)) - zero_point
    return straight_through(values, steps * grid.scale)
