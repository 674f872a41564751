"""Ranges: the least and greatest number seen at each site, kept in the ``quant`` collection.

``{site: {"low": float32 [], "high": float32 []}}`` with ``low <= 0 <= high``. A range that has seen nothing
is empty, infinity to -infinity; one that has only seen zeros is 0 to 0.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxmini.compress.quantize.extremes import Range, begun
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.learned import Added
from jaxmini.compress.quantize.plan import Plan
from jaxmini.state import Array

Ranges: TypeAlias = dict[str, Range]


def unseen(plan: Plan) -> Ranges:
    """The ranges of a plan before any data."""
    empty = {"low": jnp.float32(jnp.inf), "high": jnp.float32(-jnp.inf)}
    return {site: dict(empty) for site in plan.observed}


def is_seen(known: Range) -> Array:
    """Whether a range has seen data, bool []."""
    return known["high"] >= known["low"]


def trained(plan: Plan, known: Ranges, seen: Ranges, momentum: float) -> Ranges:
    """``momentum * known + (1 - momentum) * seen``; the first range that a site sees is taken whole.

    A range whose estimator clips stays what it is.
    """

    def average(known: Range, seen: Range) -> Range:
        before = is_seen(known)
        return {
            end: jnp.where(before, momentum * known[end] + (1 - momentum) * seen[end], seen[end])
            for end in known
        }

    return {
        site: before if plan.estimator(site).clips else average(before, seen[site])
        for site, before in known.items()
    }


def grids_of(
    plan: Plan, ranges: Ranges, added: Mapping[str, Added] = MappingProxyType({})
) -> dict[str, Grid]:
    """The grid of every site of a plan; ``added`` is what training has added to those it learns.

    Raises:
        ValueError: the ranges are not those of the plan's sites, or one has never seen data. The second
            can be told of numbers only: while jit, grad or pmap trace it is not checked.
    """
    check_sites(plan, ranges)
    check_seen(ranges)
    grids = {
        site: plan.activation(site).grid(begun(known), added.get(site, {}))
        for site, known in ranges.items()
    }
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
