"""Learned: activation grids that gradients move, from where calibration or the first batch has put them.

What is trained is what training *adds* to that start, in the start's own units and 0 at first: a gradient is
that of the published parameter, and a network can start to learn before anything has been observed.
"""

import dataclasses
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize.extremes import Range
from jaxmini.compress.quantize.grid import (
    BITS,
    FEWEST_BITS,
    PER_STEP,
    SMALLEST_RANGE,
    WIDE,
    Grid,
    as_bits,
    covering,
    ends,
    fake_quant,
    straight_through,
)
from jaxmini.state import Array

Added: TypeAlias = dict[str, Array]

MOST_OCTAVES = 100.0  # float32 has 126 powers of two to either side of 1
LN_2 = np.float32(np.log(2))


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Activation:
    """How many bits the integers of a site have, and how training moves its grid.

    Attributes:
        bits: 8 in files of int8; fewer (2..7) in training and simulation; 16 for the files of int16
            activations and int8 kernels, whose grids have zero point 0 and are observed, not learned.
    """

    bits: int = BITS

    # Names of the numbers that gradients move, float32 [] each.
    learned: ClassVar[tuple[str, ...]] = ()
    # Whether it is of numbers that a rectifier has left, and of no others.
    rectified: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", as_bits(self.bits))
        name, bits = type(self).__name__, self.bits
        if type(bits) is not int or not (FEWEST_BITS <= bits <= BITS or bits == WIDE):
            raise ValueError(
                f"{name}: bits is {bits!r}, expected an integer {FEWEST_BITS}..{BITS}, or {WIDE}"
            )
        if self.learned and bits == WIDE:
            raise ValueError(
                f"{name}: bits is {bits}, and grids of {WIDE} bits are not learned: give them "
                f"observed(bits={WIDE}), or learn grids of {FEWEST_BITS}..{BITS} bits"
            )

    def __repr__(self) -> str:
        """Its fields; those that are given by name only where they are not the usual, as the bits are."""
        fields = dataclasses.fields(self)
        names = [f.name for f in fields if not f.kw_only or getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @property
    def levels(self) -> int:
        """Steps from the lowest to the highest number of a grid."""
        low, high = ends(self.bits)
        return high - low

    @property
    def per_step(self) -> np.float32:
        """1 / levels."""
        return np.float32(1 / self.levels)

    def grid(self, start: Range, added: Added) -> Grid:
        """The grid of a site that started from a range, after training has added to it."""
        raise NotImplementedError(f"{type(self).__name__} does not say which grid it has learned")

    def fake_quant(self, values: Array, start: Range, added: Added) -> jax.Array:
        """Values [B, ...] rounded onto ``grid(start, added)``, with gradients to what was added."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it rounds")

    def penalty(self, start: Range, added: Added) -> Array | None:
        """What the objective gets besides the loss, float32 []; None for nothing."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class observed(Activation):
    """Not learned: the grid follows the range of what is seen (Jacob et al., 2018).

    Attributes:
        symmetric: zero point 0 and a step of ``max(-low, high) / 127``, for hardware that knows no zero
            points; what a rectifier leaves then has half of the integers. Grids of 16 bits always are so, and
            those of an operand of each product of activations (``products``).
            Those that a kernel prescribes (of softmax), that are given or that a mask makes stay as they are,
            and estimators search their clips as for asymmetric grids.
    """

    symmetric: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.symmetric, bool):
            raise TypeError(f"observed: symmetric is {self.symmetric!r}, expected True or False")

    def grid(self, start: Range, added: Added) -> Grid:
        return covering(start["low"], start["high"], self.bits, centred=self.symmetric)

    def fake_quant(self, values: Array, start: Range, added: Added) -> jax.Array:
        return fake_quant(values, self.grid(start, added))


@dataclasses.dataclass(frozen=True, repr=False)
class _Centred(Activation):
    """Of grids that are symmetric, or begin at 0 where no negative number has been seen."""

    def _zero_point(self, start: Range) -> jax.Array:
        low, _ = ends(self.bits)
        return jnp.where(_is_signed(start), 0, low).astype(jnp.int32)

    def _bounds(self, start: Range) -> tuple[Array, Array]:
        """The least and greatest count of steps from 0."""
        low, high = map(jnp.float32, ends(self.bits))
        signed = _is_signed(start)
        return jnp.where(signed, low, 0.0), jnp.where(signed, high, jnp.float32(self.levels))


@dataclasses.dataclass(frozen=True, repr=False)
class lsq(_Centred):
    """Learned step size (Esser et al., 2020): the scale, its gradient times 1 / sqrt(N Q_P).

    N is the count of features of one example. A site that has shown no negative number has zero point -128
    (Q_N = 0, Q_P = 255 in the paper), any other 0 (128 and 127). The start is the range, not the paper's
    2 E|v| / sqrt(Q_P), which is for few bits.
    """

    learned = ("scale",)

    def grid(self, start: Range, added: Added) -> Grid:
        lowest, _ = ends(self.bits)
        _, high = self._bounds(start)
        wanted = jnp.maximum(-start["low"] * np.float32(-1 / lowest), start["high"] * (1 / high))
        return Grid(_positive(wanted + added["scale"]), self._zero_point(start), self.bits)

    def fake_quant(self, values: Array, start: Range, added: Added) -> jax.Array:
        low, high = self._bounds(start)
        scale = scaled_gradient(self.grid(start, added).scale, _lsq_factor(values, high))
        steps = values * (1 / lax.stop_gradient(scale))
        return rounded(values, scale, steps <= low, steps >= high, low * scale, high * scale)


@dataclasses.dataclass(frozen=True, repr=False)
class lsq_plus(Activation):
    """Learned scale and offset (LSQ+, Bhalgat et al., 2020, equations 2 to 4; n = 0, p = 255).

    The offset is the lowest number of the grid, held to one at which 0 is a whole number of steps away, as
    zero points are integers; the gradient goes straight through that. Both gradients are times
    1 / sqrt(255 N), N the count of features of one example.
    """

    learned = ("scale", "offset")

    def grid(self, start: Range, added: Added) -> Grid:
        scale, offset = self._parameters(start, added)
        low, high = ends(self.bits)
        zero_point = jnp.clip(jnp.round(low - offset / scale), low, high)
        return Grid(scale, lax.stop_gradient(zero_point).astype(jnp.int32), self.bits)

    def fake_quant(self, values: Array, start: Range, added: Added) -> jax.Array:
        factor = _lsq_factor(values, jnp.float32(self.levels))
        low, high = _steps_of(self.grid(start, added))
        scale, offset = (scaled_gradient(p, factor) for p in self._parameters(start, added))
        steps, step = values * (1 / lax.stop_gradient(scale)), lax.stop_gradient(scale)
        bottom = straight_through(offset, low * step)
        top = straight_through(offset + self.levels * scale, high * step)
        return rounded(values, scale, steps <= low, steps >= high, bottom, top)

    def _parameters(self, start: Range, added: Added) -> tuple[Array, Array]:
        scale = _positive((start["high"] - start["low"]) * self.per_step + added["scale"])
        return scale, start["low"] + added["offset"]


@dataclasses.dataclass(frozen=True, repr=False)
class pact(Activation):
    """Learned clip of rectified activations, [0, alpha] (PACT, Choi et al., 2018, equations 1 to 3).

    Attributes:
        l2: alpha's regularisation, ``l2 / 2 * alpha**2`` in the objective; the paper takes the weight decay.
    """

    l2: float = 2e-4
    learned = ("alpha",)
    rectified = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.l2 < np.inf:
            raise ValueError(f"pact: l2 is {self.l2}, expected a number >= 0")

    def grid(self, start: Range, added: Added) -> Grid:
        low, _ = ends(self.bits)
        return Grid(self._alpha(start, added) * self.per_step, jnp.int32(low), self.bits)

    def fake_quant(self, values: Array, start: Range, added: Added) -> jax.Array:
        alpha, step = self._alpha(start, added), lax.stop_gradient(self.grid(start, added).scale)
        top = straight_through(alpha, self.levels * step)
        return rounded(values, step, values < 0, values >= alpha, jnp.float32(0), top)

    def penalty(self, start: Range, added: Added) -> Array:
        return np.float32(self.l2 / 2) * jnp.square(self._alpha(start, added))

    def _alpha(self, start: Range, added: Added) -> Array:
        alpha = start["high"] + added["alpha"]
        return straight_through(alpha, jnp.maximum(alpha, SMALLEST_RANGE))


@dataclasses.dataclass(frozen=True, repr=False)
class learned_min_max(Activation):
    """Learned ends, as TensorFlow's ``FakeQuantWithMinMaxVars`` differentiates them.

    An end gets the gradient of the numbers beyond it. ``low <= 0 <= high`` is kept, straight-through.
    """

    learned = ("low", "high")

    def grid(self, start: Range, added: Added) -> Grid:
        return covering(*self._ends(start, added), self.bits)

    def fake_quant(self, values: Array, start: Range, added: Added) -> jax.Array:
        low, high = self._ends(start, added)
        grid = covering(lax.stop_gradient(low), lax.stop_gradient(high), self.bits)
        bottom, top = (steps * grid.scale for steps in _steps_of(grid))
        clips = straight_through(low, bottom), straight_through(high, top)
        return rounded(values, grid.scale, values < bottom, values > top, *clips)

    def _ends(self, start: Range, added: Added) -> tuple[Array, Array]:
        low, high = (start[end] + added[end] for end in ("low", "high"))
        return (
            straight_through(low, jnp.minimum(low, 0.0)),
            straight_through(high, jnp.maximum(high, 0.0)),
        )


@dataclasses.dataclass(frozen=True, repr=False)
class tqt(_Centred):
    """Trained threshold, in log2 (TQT, Jain et al., 2020, equations 4 to 8); symmetric, as ``lsq``.

    Attributes:
        power_of_two: scales are powers of two, the threshold's power rounded up; else of the threshold.
    """

    power_of_two: bool = True
    learned = ("log2_threshold",)

    def grid(self, start: Range, added: Added) -> Grid:
        largest = jnp.maximum(-start["low"], start["high"])
        power = jnp.log2(jnp.maximum(largest, SMALLEST_RANGE)) + added["log2_threshold"]
        power = straight_through(power, jnp.clip(power, -MOST_OCTAVES, MOST_OCTAVES))
        # Levels to a side: 2**(b - 1) of a signed grid, 2**b of an unsigned one.
        octaves = jnp.where(_is_signed(start), self.bits - 1, self.bits)
        scale = lax.stop_gradient(self._scale(power, octaves))
        # d scale / d power is scale * ln 2 (equation 7), straight through the rounding of the power.
        scale = scale * (1 + LN_2 * (power - lax.stop_gradient(power)))
        return Grid(_positive(scale), self._zero_point(start), self.bits)

    def fake_quant(self, values: Array, start: Range, added: Added) -> jax.Array:
        low, high = self._bounds(start)
        scale = self.grid(start, added).scale
        steps = jnp.round(values * (1 / lax.stop_gradient(scale)))
        return rounded(values, scale, steps < low, steps > high, low * scale, high * scale)

    def _scale(self, power: Array, octaves: Array) -> Array:
        if not self.power_of_two:
            return jnp.exp2(power - jnp.float32(octaves))
        # Not exp2: it need not give a power of two.
        return jnp.ldexp(jnp.float32(1), jnp.ceil(power).astype(jnp.int32) - octaves)


@jax.custom_jvp
def scaled_gradient(value: Array, factor: Array) -> Array:
    """The value itself, with its gradient times ``factor``, which has none (Esser et al., appendix A)."""
    return value


@scaled_gradient.defjvp
def _scaled_gradient_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (value, factor), (tangent, _) = primals, tangents
    return value, factor * tangent


def rounded(
    values: Array, step: Array, below: Array, above: Array, bottom: Array, top: Array
) -> jax.Array:
    """``bottom`` where below, ``top`` where above, and between them the nearest multiple of ``step``.

    The gradient there is 1 to a value v and ``round(v / step) - v / step`` to the step; the ends take theirs
    of all the numbers they stand for.
    """
    inside = jnp.where(below | above, 0.0, values)  # infinity must not reach what follows
    fixed = lax.stop_gradient(step)
    steps = lax.stop_gradient(inside) * (1 / fixed)
    nearest = jnp.round(steps)
    between = straight_through(inside, nearest * fixed) + (step - fixed) * (nearest - steps)
    return jnp.where(below, bottom, jnp.where(above, top, between))


def _is_signed(start: Range) -> Array:
    return start["low"] < 0


def _steps_of(grid: Grid) -> tuple[Array, Array]:
    """The least and greatest count of steps from 0 of a grid."""
    zero_point = jnp.float32(grid.zero_point)
    return grid.low - zero_point, grid.high - zero_point


def _positive(scale: Array) -> Array:
    """A scale held above zero; its gradient goes through, so that it can come back."""
    return straight_through(scale, jnp.maximum(scale, SMALLEST_RANGE * PER_STEP))


def _lsq_factor(values: Array, most: Array) -> Array:
    """1 / sqrt(N Q_P), N the features of one example: the same however a batch is cut."""
    features = values.size // values.shape[0]
    return 1 / jnp.sqrt(features * most)
