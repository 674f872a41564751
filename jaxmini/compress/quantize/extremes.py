"""Extremes: the least and greatest of a site's numbers, 0 included; what every range starts from."""

from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import lax

from jaxmini import axis
from jaxmini.compress.quantize.grid import SMALLEST_RANGE
from jaxmini.state import Array

Range: TypeAlias = dict[str, Array]


def extremes(values: Array) -> Range:
    """``low`` and ``high`` of the values of all devices, 0 included, float32 []. It has no gradient."""
    values = lax.stop_gradient(values)
    ends = jnp.stack([-jnp.min(values), jnp.max(values)])
    negative_low, high = axis.maximum(jnp.maximum(ends, 0.0))
    return {"low": 0.0 - negative_low, "high": high}


def begun(known: Range) -> Range:
    """The range that a grid starts from: 0 to 1 where next to nothing but zeros was seen.

    Any step serves zeros; one of next to nothing is beyond the arithmetic of integer kernels.
    """
    width = known["high"] - known["low"]
    is_nothing = (width >= 0) & (width < SMALLEST_RANGE)
    return {
        "low": jnp.where(is_nothing, 0.0, known["low"]),
        "high": jnp.where(is_nothing, 1.0, known["high"]),
    }


def union(first: Range, second: Range) -> Range:
    """The smallest range that holds two."""
    return {
        "low": jnp.minimum(first["low"], second["low"]),
        "high": jnp.maximum(first["high"], second["high"]),
    }


def ends_of(statistics: Any) -> tuple[Array, Array]:
    """``low`` and ``high`` of a range, or of a named tuple that has them."""
    known = statistics if isinstance(statistics, dict) else statistics._asdict()
    return known["low"], known["high"]
