"""Extremes: the least and greatest of a site's numbers, 0 included; what every range starts from."""

from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import lax

from jaxmini import axis
from jaxmini.state import Array

Range: TypeAlias = dict[str, Array]


def extremes(values: Array) -> Range:
    """``low`` and ``high`` of the values of all devices, 0 included, float32 []. It has no gradient."""
    values = lax.stop_gradient(values)
    ends = jnp.stack([-jnp.min(values), jnp.max(values)])
    negative_low, high = axis.maximum(jnp.maximum(ends, 0.0))
    return {"low": 0.0 - negative_low, "high": high}


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
