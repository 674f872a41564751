"""Calibration: what the sites of the float model show on real data, gathered batch by batch, then settled."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.estimators import Statistics
from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.extremes import Range, ends_of
from jaxmini.compress.quantize.plan import Plan
from jaxmini.model import Variables
from jaxmini.state import Array


class Seen(NamedTuple):
    """What one tensor of a site has shown."""

    statistics: Statistics
    is_finite: Array


class Observe(Float):
    """The mode that runs the float model and notes what each site shows in ``seen``, one a tensor."""

    def __init__(self, plan: Plan, variables: Variables) -> None:
        super().__init__(plan, variables)
        self.seen: dict[str, list[Seen]] = {}

    def activation(self, site: str, values: Array) -> Array:
        if site not in self.plan.fixed:
            # Asked for by itself: XLA's maximum on a CPU passes over NaN in all but small arrays.
            noted = Seen(self.plan.estimator(site).observe(values), jnp.isfinite(values).all())
            self.seen.setdefault(site, []).append(noted)
        return values


def gathered(
    plan: Plan, before: dict[str, Statistics], seen: dict[str, list[Seen]], batch: int
) -> dict[str, Statistics]:
    """The statistics of each site after one more batch, in NumPy.

    Args:
        before: after the batches before it; empty at the first.
        seen: what ``Observe`` noted of this one, as numbers.
        batch: its number, for errors.

    Raises:
        ValueError: a site holds NaN or infinity; the first in the order of the plan.
    """
    after = {}
    for site in plan.observed:
        estimator = plan.estimator(site)
        for noted in seen[site]:
            if not (noted.is_finite and np.all(np.isfinite(ends_of(noted.statistics)))):
                raise ValueError(
                    f"calibrate: the numbers at {site!r} are not finite in batch {batch} (NaN or "
                    "infinity): look at the inputs of the batch, then at the variables of that module"
                )
        tensors = functools.reduce(estimator.join, (noted.statistics for noted in seen[site]))
        after[site] = estimator.follow(before[site], tensors) if site in before else tensors
    return after


def settled(plan: Plan, known: dict[str, Statistics], onto: Plan) -> dict[str, Range]:
    """The range of each site.

    Args:
        plan: whose estimators gathered what is known.
        known: statistics by site.
        onto: the plan whose grids the ranges are for; it says of how many bits.

    Raises:
        ValueError: an estimator clips all that a site holds.
    """
    ranges = {}
    for site, statistics in known.items():
        estimator = plan.estimator(site)
        low, high = map(np.float32, estimator.settle(statistics, onto.activation(site).bits))
        if low == high and np.any(ends_of(statistics)):
            raise ValueError(
                f"calibrate: {estimator} clips all numbers but the zeros of {site!r}, which are most of "
                "it: clip less there"
            )
        ranges[site] = {"low": jnp.asarray(low), "high": jnp.asarray(high)}
    return ranges
