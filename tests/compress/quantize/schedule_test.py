"""When activations are rounded and when their grids freeze, counted in updates."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import cosine, phases
from jaxmini.compress.quantize.schedule import at, first_clock, in_force, ticked


def test_phases_are_counted_in_updates():
    when = phases(start=2, freeze=3)
    assert [bool(when.is_observing(jnp.int32(k))) for k in range(4)] == [True, True, False, False]
    assert [bool(when.is_frozen(jnp.int32(k))) for k in range(5)] == [False] * 3 + [True] * 2
    assert not any(phases().is_frozen(jnp.int32(k)) for k in (0, 10**9))


@pytest.mark.parametrize("freeze", [0, 1, 3])
def test_what_is_held_is_what_the_updates_before_freezing_left(freeze):
    when, learned = phases(freeze=freeze), {"site": {"scale": jnp.float32(0)}}
    clock, used = first_clock(learned), []
    for _ in range(6):
        now = in_force(clock, learned)
        used.append(float(now["site"]["scale"]))
        clock = ticked(when, clock, now)
        learned = {"site": {"scale": learned["site"]["scale"] + 1}}  # the optimizer goes on
    assert used == [min(k, freeze) for k in range(6)]
    assert float(in_force(clock, learned)["site"]["scale"]) == freeze
    assert int(clock["step"]) == 6


def test_without_freezing_nothing_is_held():
    clock = first_clock({})
    assert set(clock) == {"step", "is_frozen"}
    learned = {"site": {"scale": jnp.float32(3)}}
    assert in_force(clock, learned) is learned
    assert int(ticked(phases(), clock, learned)["step"]) == 1


def test_cosine_is_half_a_wave():
    fall = cosine(4.0, 2.0, 8)
    steps = np.arange(12)
    part = np.minimum(steps / 8, 1)
    expected = 4 + (2 - 4) * 0.5 * (1 - np.cos(np.pi * part))
    np.testing.assert_allclose([at(fall, jnp.int32(k)) for k in steps], expected, rtol=1e-6)
    assert at(0.5, jnp.int32(3)) == 0.5


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="phases: start is -1, expected an integer >= 0"):
        phases(-1)
    with pytest.raises(ValueError, match="phases: freeze is 1.5, expected an integer >= 0"):
        phases(0, 1.5)
    with pytest.raises(ValueError, match="freeze after 5 updates and are used from 9 on"):
        phases(9, 5)
    for name, end in (("first", np.inf), ("last", np.nan)):
        with pytest.raises(ValueError, match=f"cosine: {name} is {end}, expected a finite number"):
            cosine(**{"first": 1.0, "last": 0.0, "steps": 8, name: end})
    with pytest.raises(ValueError, match="cosine: steps is inf, expected an integer"):
        cosine(1.0, 0.0, np.inf)
    with pytest.raises(ValueError, match="cosine: steps is 0"):
        cosine(1, 0, 0)
