"""Ranges: the least and greatest number seen at each site, kept in the ``quant`` collection.

``{site: {"low": float32 [], "high": float32 []}}`` with ``low <= 0 <= high``. A range that has seen nothing
is empty, infinity to -infinity; one that has only seen zeros is 0 to 0.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxmini import axis
from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.grid import Grid, covering
from jaxmini.compress.quantize.plan import Plan
from jaxmini.model import Variables
from jaxmini.state import Array

Range: TypeAlias = dict[str, Array]
Ranges: TypeAlias = dict[str, Range]


def unseen(plan: Plan) -> Ranges:
    """The ranges of a plan before any data."""
    empty = {"low": jnp.float32(jnp.inf), "high": jnp.float32(-jnp.inf)}
    return {site: dict(empty) for site in plan.observed}


def observed(values: Array) -> Range:
    """The range of the values of all devices, 0 included. It has no gradient."""
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


def is_seen(known: Range) -> Array:
    """Whether a range has seen data, bool []."""
    return known["high"] >= known["low"]


def moving_average(known: Ranges, seen: Ranges, momentum: float) -> Ranges:
    """``momentum * known + (1 - momentum) * seen``; the first range that a site sees is taken whole."""

    def average(known: Range, seen: Range) -> Range:
        before = is_seen(known)
        return {
            end: jnp.where(before, momentum * known[end] + (1 - momentum) * seen[end], seen[end])
            for end in known
        }

    return {site: average(known[site], seen[site]) for site in known}


def grids_of(plan: Plan, ranges: Ranges) -> dict[str, Grid]:
    """The grid of every site of a plan.

    Raises:
        ValueError: the ranges are not those of the plan's sites, or one has never seen data. The second
            can be told of numbers only: while jit, grad or pmap trace it is not checked.
    """
    check_sites(plan, ranges)
    check_seen(ranges)
    grids = {site: covering(known["low"], known["high"]) for site, known in ranges.items()}
    return {**plan.fixed, **grids}


def check_sites(plan: Plan, ranges: Ranges) -> None:
    """Raise ValueError if the ranges are not those of the plan's sites."""
    missing, extra = set(plan.observed) - set(ranges), set(ranges) - set(plan.observed)
    if missing or extra:
        raise ValueError(
            "quantize: the collection 'quant' is of another model: sites missing "
            f"{sorted(missing)}, sites unknown {sorted(extra)}: take it from init of this model"
        )


def check_seen(ranges: Ranges) -> None:
    """Raise ValueError if a range has never seen data, and is a number."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(ranges)):
        return
    unseen_sites = [site for site, known in jax.device_get(ranges).items() if not is_seen(known)]
    if unseen_sites:
        raise ValueError(
            f"quantize: {len(unseen_sites)} of {len(ranges)} ranges have never seen data, "
            f"{unseen_sites[0]!r} for one: call calibrate(model, variables, batches), or train"
        )


class Observe(Float):
    """The mode that runs the float model and notes each site's range in ``seen``."""

    def __init__(self, plan: Plan, variables: Variables) -> None:
        super().__init__(plan, variables)
        self.seen: Ranges = {}

    def activation(self, site: str, values: Array) -> Array:
        if site in self.plan.fixed:
            return values
        seen = observed(values)
        self.seen[site] = union(self.seen[site], seen) if site in self.seen else seen
        return values
