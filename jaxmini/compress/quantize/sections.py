"""Sections: a part of what was joined is a part of what went into it, as converters write it too.

Layers that a scan has stacked, and one of which is read, then keep grids of their own.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from jaxmini.compress.quantize.unrolling import Flattening, Scope

# What takes parts along axes, and a join of whose operand is looked through.
PARTS = frozenset({"dynamic_slice", "slice", "split"})


class Joined(NamedTuple):
    """A concatenation: its operands, their sizes along its axis, the axis."""

    operands: tuple[Any, ...]
    sizes: tuple[int, ...]
    axis: int


class Section(NamedTuple):
    """Where a part starts and ends along each axis, and its stride."""

    starts: tuple[int, ...]
    limits: tuple[int, ...]
    strides: tuple[int, ...]


def sections(
    name: str, params: Mapping[str, Any], shape: tuple[int, ...], starts: list[np.ndarray]
) -> list[Section]:
    """The parts that an operation of ``PARTS`` takes of an array.

    Args:
        name, params: of the operation.
        shape: of what it takes from.
        starts: the numbers it reads besides.
    """
    ones = (1,) * len(shape)
    match name:
        case "slice":
            strides = params["strides"] or ones
            return [Section(params["start_indices"], params["limit_indices"], tuple(strides))]
        case "dynamic_slice":
            return _dynamic(params["slice_sizes"], shape, starts)
    ends = np.cumsum(params["sizes"]).tolist()
    return [
        _along(shape, params["axis"], end - size, end)
        for end, size in zip(ends, params["sizes"], strict=True)
    ]


def taken(flat: Flattening, joined: Joined, part: Section, scope: Scope) -> Any | None:
    """The value of a part of a join, made of the operands it reaches; None where that is all of them."""
    found = list(_reached(joined, part))
    if not 0 < len(found) < len(joined.operands):
        return None
    if len(found) > 1 and part.strides[joined.axis] != 1:
        return None
    pieces = [
        flat.traced(functools.partial(_slice, part=own), [operand], scope)[0]
        for operand, own in found
    ]
    join = functools.partial(_join, axis=joined.axis)
    return pieces[0] if len(pieces) == 1 else flat.traced(join, pieces, scope)[0]


def _reached(joined: Joined, part: Section) -> Iterator[tuple[Any, Section]]:
    """Each operand that a part reaches, and what it takes of it."""
    axis, offset = joined.axis, 0
    for operand, size in zip(joined.operands, joined.sizes, strict=True):
        first, last = part.starts[axis] - offset, part.limits[axis] - offset
        offset += size
        if max(first, 0) < min(last, size):
            own = part._replace(
                starts=_with(part.starts, axis, max(first, 0)),
                limits=_with(part.limits, axis, min(last, size)),
            )
            yield operand, own


def _slice(values: jax.Array, part: Section) -> jax.Array:
    whole = Section((0,) * values.ndim, values.shape, (1,) * values.ndim)
    return values if part == whole else lax.slice(values, *part)


def _join(*pieces: jax.Array, axis: int) -> jax.Array:
    return lax.concatenate(pieces, axis)


def _dynamic(
    sizes: tuple[int, ...], shape: tuple[int, ...], starts: list[np.ndarray]
) -> list[Section]:
    """A slice at known places, which are moved inside as JAX does."""
    low = tuple(
        int(np.clip(int(start), 0, whole - size))
        for start, size, whole in zip(starts, sizes, shape, strict=True)
    )
    high = tuple(start + size for start, size in zip(low, sizes, strict=True))
    return [Section(low, high, (1,) * len(shape))]


def _along(shape: tuple[int, ...], axis: int, start: int, end: int) -> Section:
    starts = _with((0,) * len(shape), axis, start)
    return Section(starts, _with(shape, axis, end), (1,) * len(shape))


def _with(numbers: tuple[int, ...], axis: int, number: int) -> tuple[int, ...]:
    return (*numbers[:axis], number, *numbers[axis + 1 :])
