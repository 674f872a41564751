"""Convolution: what is known of a ``conv_general_dilated`` before it runs, and its operands in one layout.

jax writes all three directions with this one primitive. An input gradient has the gradient dilated by the
forward stride and the kernel turned over; a filter gradient has the features of the pictures for a batch
and the examples for features, and the gradient, as large as the map, for a kernel. What is computed is the
same formula each time, so a formulation that is right for a shape is right whatever it was meant for.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pair = tuple[int, int]

FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution over one or two axes of space; one axis is seen as a height of one.

    Attributes:
        batch, size, features: of the left operand, ``size`` its (height, width).
        kernel, group_features, out_features: of the right operand.
        out: (height, width) of the result.
        stride, padding, lhs_dilation, rhs_dilation: (of height, of width); padding may be negative.
        feature_groups, batch_groups: groups the features, or the batch, of the left operand fall into.
        dtype: of the result.
        precision: for the matrix products.
        layouts: for each operand and the result, which axis of it is (batch or out, feature or in, *space).
    """

    batch: int
    size: Pair
    features: int
    kernel: Pair
    group_features: int
    out_features: int
    out: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    lhs_dilation: Pair
    rhs_dilation: Pair
    feature_groups: int
    batch_groups: int
    dtype: Any
    precision: Any
    layouts: tuple[tuple[int, ...], ...]

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return math.prod(self.kernel)

    @property
    def is_padded(self) -> bool:
        """Whether anything is added to, or cut from, the left operand."""
        return any(side for axis in self.padding for side in axis)

    @property
    def multiplier(self) -> int:
        """Results of each feature of a depthwise convolution."""
        return self.out_features // max(self.feature_groups, self.batch_groups)


def objection(lhs: Any, rhs: Any, out: Any, params: Mapping[str, Any]) -> str | None:
    """Why a convolution of these abstract values is none that this room knows; None where it is."""
    if len(lhs.shape) not in (3, 4):
        return f"{len(lhs.shape) - 2} axes of space"
    if lhs.dtype != rhs.dtype or lhs.dtype not in FLOATS:
        return f"{lhs.dtype} with {rhs.dtype}"
    if not all(isinstance(n, int) for value in (lhs, rhs, out) for n in value.shape):
        return "a shape that is not known yet"
    if 0 in (*lhs.shape, *rhs.shape, *out.shape):
        return "an empty array"
    return None


def describe(lhs: Any, rhs: Any, out: Any, params: Mapping[str, Any]) -> Convolution:
    """The convolution of abstract values and the primitive's parameters; see :func:`objection`."""
    numbers = params["dimension_numbers"]
    batch, features, *size = (lhs.shape[axis] for axis in numbers.lhs_spec)
    out_features, group_features, *kernel = (rhs.shape[axis] for axis in numbers.rhs_spec)
    return Convolution(
        batch=batch,
        size=_pair(size, 1),
        features=features,
        kernel=_pair(kernel, 1),
        group_features=group_features,
        out_features=out_features,
        out=_pair([out.shape[axis] for axis in numbers.out_spec[2:]], 1),
        stride=_pair(params["window_strides"], 1),
        padding=_pair([tuple(axis) for axis in params["padding"]], (0, 0)),
        lhs_dilation=_pair(params["lhs_dilation"], 1),
        rhs_dilation=_pair(params["rhs_dilation"], 1),
        feature_groups=params["feature_group_count"],
        batch_groups=params["batch_group_count"],
        dtype=out.dtype,
        precision=params["precision"],
        layouts=(numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec),
    )


def sums(dtype: Any) -> Any:
    """The dtype to add numbers of this one up in: float32 at least."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def as_pictures(lhs: jax.Array, rhs: jax.Array, c: Convolution) -> tuple[jax.Array, jax.Array]:
    """Left operand [batch, height, width, features], right [height, width, in, out]."""
    (n, f, *space), (o, i, *window) = c.layouts[0], c.layouts[1]
    return _moved(lhs, (n, *space, f), 1), _moved(rhs, (*window, i, o), 0)


def from_pictures(result: jax.Array, c: Convolution) -> jax.Array:
    """[batch, height, width, features] in the result's own layout and dtype."""
    n, f, *space = c.layouts[2]
    return _placed(result, (n, *space, f), 1, c)


def as_examples(lhs: jax.Array, rhs: jax.Array, c: Convolution) -> tuple[jax.Array, jax.Array]:
    """The operands of a filter gradient: both [examples, height, width, features]."""
    (n, f, *space), (o, i, *window) = c.layouts[0], c.layouts[1]
    return _moved(lhs, (f, *space, n), 1), _moved(rhs, (i, *window, o), 1)


def from_kernel(result: jax.Array, c: Convolution) -> jax.Array:
    """[height, width, in, out] in the layout and dtype of a filter gradient's result."""
    n, f, *space = c.layouts[2]
    return _placed(result, (*space, n, f), 0, c)


def _pair(values: Any, first: Any) -> Any:
    """Of two axes; of one, after what the added axis has."""
    return tuple(values) if len(values) == 2 else (first, *values)


def _moved(array: jax.Array, axes: tuple[int, ...], space: int) -> jax.Array:
    """The axes in this order; where there is one axis of space, one of length one before it."""
    array = lax.transpose(array, axes) if axes != tuple(range(array.ndim)) else array
    return lax.expand_dims(array, (space,)) if array.ndim == 3 else array


def _placed(array: jax.Array, axes: tuple[int, ...], space: int, c: Convolution) -> jax.Array:
    """What ``_moved`` did, undone."""
    array = lax.squeeze(array, (space,)) if len(axes) == 3 else array
    order = tuple(int(axis) for axis in np.argsort(axes))
    array = lax.transpose(array, order) if order != tuple(range(array.ndim)) else array
    return array.astype(c.dtype)
