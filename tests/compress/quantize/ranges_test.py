"""Ranges: what training makes of them, and the grids they become; those of another model are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import planned

from jaxmini.compress.quantize import Grid, mse, percentile
from jaxmini.compress.quantize.grid import covering
from jaxmini.compress.quantize.ranges import (
    check_seen,
    check_sites,
    grids_of,
    is_seen,
    trained,
    unseen,
)

SITES = ("input", ":dense", ":dense_1")
PLAN = planned(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], a=(4, 3), b=(3, 2))


def ranges(*ends):
    """Of each site in turn."""
    return {
        site: {"low": jnp.float32(low), "high": jnp.float32(high)}
        for site, (low, high) in zip(SITES, ends, strict=True)
    }


SEEN = ranges((-1, 2), (0, 4), (-3, 3))


def test_before_any_data_no_range_has_seen_any():
    empty = unseen(PLAN)
    assert tuple(empty) == SITES
    assert not any(map(is_seen, empty.values()))
    assert is_seen({"low": jnp.float32(0), "high": jnp.float32(0)})  # only zeros
    given = dataclasses.replace(PLAN, fixed={"input": Grid(1.0, 0)})
    assert tuple(unseen(given)) == SITES[1:]


def test_training_is_a_moving_average_that_starts_with_what_it_first_sees():
    known = {**SEEN, ":dense": unseen(PLAN)[":dense"]}
    new = ranges((-5, 10), (0, 8), (-3, 3))
    moved = trained(PLAN, known, new, 0.75)
    np.testing.assert_allclose(moved["input"]["low"], -2)
    np.testing.assert_allclose(moved["input"]["high"], 4)
    assert moved[":dense"] == new[":dense"]
    assert moved[":dense_1"] == new[":dense_1"]
    assert trained(PLAN, SEEN, new, 1.0) == SEEN
    assert trained(PLAN, SEEN, new, 0.0) == new


@pytest.mark.parametrize("estimator", [mse(), percentile(99.0)])
def test_a_range_that_was_clipped_stays_what_it_is(estimator):
    """A batch shows its extremes only: the mean with them would undo the clip."""
    plan = dataclasses.replace(PLAN, estimators={":dense": estimator})
    moved = trained(plan, SEEN, ranges((-9, 9), (0, 99), (-9, 9)), 0.5)
    assert moved[":dense"] == SEEN[":dense"]
    assert moved["input"]["high"] == 5.5


def test_a_grid_spans_its_range_and_a_given_one_is_taken():
    assert grids_of(PLAN, SEEN) == {
        site: covering(known["low"], known["high"]) for site, known in SEEN.items()
    }
    given = Grid(np.float32(0.5), np.int32(3))
    plan = dataclasses.replace(PLAN, fixed={"input": given})
    known = {site: SEEN[site] for site in SITES[1:]}
    assert grids_of(plan, known)["input"] is given


def test_ranges_of_another_model_are_told_by_their_sites():
    with pytest.raises(ValueError, match=r"missing \[':dense'\], sites unknown \['Net:add'\]"):
        check_sites(PLAN, {"input": {}, ":dense_1": {}, "Net:add": {}})
    check_sites(PLAN, SEEN)


def test_ranges_without_data_are_refused_where_they_are_numbers():
    known = {**SEEN, ":dense": unseen(PLAN)[":dense"]}
    with pytest.raises(ValueError, match="1 of 3 ranges have never seen data, ':dense' for one"):
        grids_of(PLAN, known)
    nan = {**SEEN, ":dense": {"low": jnp.float32(np.nan), "high": jnp.float32(np.nan)}}
    with pytest.raises(ValueError, match="1 of 3"):
        check_seen(nan)
    # While a function is traced they are not known.
    jax.make_jaxpr(lambda known: grids_of(PLAN, known))(known)
