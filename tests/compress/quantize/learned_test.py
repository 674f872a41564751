"""Each learned quantizer against a slow float64 version of its paper's equations, value and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize import learned_min_max, lsq, lsq_plus, observed, pact, tqt
from jaxmini.compress.quantize.grid import fake_quant
from jaxmini.compress.quantize.learned import scaled_gradient

KINDS = (
    *(lsq(), lsq_plus(), pact(), learned_min_max(), tqt(), tqt(power_of_two=False)),
    *(lsq(bits=2), lsq_plus(bits=3), pact(bits=4), learned_min_max(bits=5), tqt(bits=4)),
)


def draw(seed, *, signed=True, shape=(4, 3, 5)):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) * rng.choice([0.01, 1.0, 30.0])
    return (values if signed else np.maximum(values, 0)).astype(np.float32)


def start_of(values, part=1.0):
    """A range that holds ``part`` of the values', 0 included."""
    low, high = (np.float32(part) * end for end in (min(values.min(), 0), max(values.max(), 0)))
    return {"low": jnp.float32(low), "high": jnp.float32(high)}


def none(kind):
    return {name: jnp.float32(0) for name in kind.learned}


@functools.partial(jax.jit, static_argnums=0)
def gradients(kind, values, start, added, weights):
    def total(values, added):
        outputs = kind.fake_quant(values, start, added)
        return jnp.sum(outputs * weights), outputs

    return jax.grad(total, argnums=(0, 1), has_aux=True)(values, added)


@functools.partial(jax.jit, static_argnums=0)
def trained(kind, values, start):
    return kind.fake_quant(values, start, none(kind))


def run(kind, values, start, added, weights):
    """Value, and gradients of the weighted sum to the values and to what was added, float64."""
    (to_values, to_added), outputs = gradients(kind, values, start, added, weights)
    return np.float64(outputs), np.float64(to_values), {k: float(v) for k, v in to_added.items()}


# -- the papers, in loops over float64 numbers: outputs, d/d values, d/d parameters by name


def by_element(values, weights, rule):
    outputs, slopes, grads = [], [], {}
    for value, weight in zip(values.ravel(), weights.ravel(), strict=True):
        output, slope, to = rule(float(value))
        outputs.append(output)
        slopes.append(slope * weight)
        for name, one in to.items():
            grads[name] = grads.get(name, 0.0) + one * weight
    return np.reshape(outputs, values.shape), np.reshape(slopes, values.shape), grads


def lsq_reference(values, weights, scale, most_negative, most_positive):
    """Esser et al., 2020, equations 1 to 3 and 5."""

    def rule(value):
        v = value / scale
        if v <= -most_negative:
            return -most_negative * scale, 0, {"scale": -most_negative}
        if v >= most_positive:
            return most_positive * scale, 0, {"scale": most_positive}
        return np.round(v) * scale, 1, {"scale": np.round(v) - v}

    outputs, slopes, grads = by_element(values, weights, rule)
    g = 1 / np.sqrt(values[0].size * most_positive)
    return outputs, slopes, {"scale": g * grads["scale"]}


def lsq_plus_reference(values, weights, scale, offset, bits):
    """Bhalgat et al., 2020, equations 2 to 4, n = 0, p = 2**bits - 1, at the offset integers can hold."""
    low, high, p = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 2**bits - 1
    zero_point = np.clip(np.round(low - offset / scale), low, high)
    beta = scale * (low - zero_point)

    def rule(value):
        v = (value - beta) / scale
        if v <= 0:
            return beta, 0, {"scale": 0, "offset": 1}
        if v >= p:
            return beta + p * scale, 0, {"scale": p, "offset": 1}
        return np.round(v) * scale + beta, 1, {"scale": np.round(v) - v, "offset": 0}

    outputs, slopes, grads = by_element(values, weights, rule)
    g = 1 / np.sqrt(values[0].size * p)
    return outputs, slopes, {name: g * grad for name, grad in grads.items()}


def pact_reference(values, weights, alpha, bits):
    """Choi et al., 2018, equations 1 to 3."""
    levels = 2**bits - 1

    def rule(value):
        if value < 0:
            return 0.0, 0, {"alpha": 0}
        if value >= alpha:
            return alpha, 0, {"alpha": 1}
        return np.round(value * levels / alpha) * alpha / levels, 1, {"alpha": 0}

    return by_element(values, weights, rule)


def min_max_reference(values, weights, low, high, bits):
    """TensorFlow's fake_quant_with_min_max_vars and its gradient, ends nudged so that 0 is exact."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = (high - low) / (2**bits - 1)
    zero_point = np.clip(np.round(least - low / scale), least, most)
    bottom, top = (least - zero_point) * scale, (most - zero_point) * scale

    def rule(value):
        if value < bottom:
            return bottom, 0, {"low": 1, "high": 0}
        if value > top:
            return top, 0, {"low": 0, "high": 1}
        return np.round(value / scale) * scale, 1, {"low": 0, "high": 0}

    return by_element(values, weights, rule)


def tqt_reference(values, weights, power, *, signed, power_of_two, bits):
    """Jain et al., 2020, equations 4 to 8."""
    n, p = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = 2.0 ** (np.ceil(power) if power_of_two else power) / (p + 1)

    def rule(value):
        steps = np.round(value / scale)
        if steps < n:
            return n * scale, 0, {"log2_threshold": scale * np.log(2) * n}
        if steps > p:
            return p * scale, 0, {"log2_threshold": scale * np.log(2) * p}
        slope = scale * np.log(2) * (steps - value / scale)
        return steps * scale, 1, {"log2_threshold": slope}

    return by_element(values, weights, rule)


def reference(kind, values, start, added, weights):
    low, high = float(start["low"]), float(start["high"])
    more = {name: float(one) for name, one in added.items()}
    signed, bits, levels = low < 0, kind.bits, 2**kind.bits - 1
    if isinstance(kind, lsq):
        half = 2 ** (bits - 1)
        bounds = (half, half - 1) if signed else (0, levels)
        scale = max(-low / half, high / (half - 1)) if signed else high / levels
        return lsq_reference(values, weights, scale + more["scale"], *bounds)
    if isinstance(kind, lsq_plus):
        scale = (high - low) / levels + more["scale"]
        return lsq_plus_reference(values, weights, scale, low + more["offset"], bits)
    if isinstance(kind, pact):
        return pact_reference(values, weights, high + more["alpha"], bits)
    if isinstance(kind, learned_min_max):
        ends = min(low + more["low"], 0), max(high + more["high"], 0)
        return min_max_reference(values, weights, *ends, bits)
    power = np.log2(max(-low, high)) + more["log2_threshold"]
    settings = {"signed": signed, "power_of_two": kind.power_of_two, "bits": bits}
    return tqt_reference(values, weights, power, **settings)


def is_clear_of_ties(kind, values, start, added):
    """Whether no number is so near a rounding tie or a clip that float32 could take the other side."""
    scale = float(kind.grid(start, added).scale)
    steps = values.astype(np.float64).ravel() / scale
    return np.all(np.abs(np.abs(steps - np.floor(steps)) - 0.5) > 1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@given(seed=st.integers(0, 10_000), signed=st.booleans(), part=st.sampled_from([0.4, 0.9, 1.3]))
def test_value_and_gradients_are_the_papers(kind, seed, signed, part):
    values = draw(seed, signed=signed and not kind.rectified)
    start = start_of(values, part)
    rng = np.random.default_rng(seed + 1)
    size = 0.05 * max(-start["low"], start["high"])
    unit = (
        0.3
        if isinstance(kind, tqt)
        else size / (2**kind.bits - 1)
        if "scale" in kind.learned
        else size
    )
    added = {name: jnp.float32(unit * rng.uniform(-1, 1)) for name in kind.learned}
    if not is_clear_of_ties(kind, values, start, added):
        return
    weights = rng.normal(size=values.shape).astype(np.float32)
    outputs, to_values, to_added = run(kind, values, start, added, weights)
    expected = reference(kind, values, start, added, np.float64(weights))
    scale = float(kind.grid(start, added).scale)
    np.testing.assert_allclose(outputs, expected[0], atol=1e-3 * scale, rtol=1e-5)
    np.testing.assert_array_equal(to_values, expected[1])
    for name, grad in expected[2].items():
        terms = np.abs(weights).sum() * max(1.0, scale if isinstance(kind, tqt) else 1.0)
        factor = 1 / np.sqrt(values[0].size) if "scale" in kind.learned else 1
        assert abs(to_added[name] - grad) < 1e-4 * terms * factor * (1 + abs(grad)), name


@pytest.mark.parametrize("kind", [*KINDS, observed(), observed(symmetric=True)], ids=repr)
@given(seed=st.integers(0, 10_000), part=st.sampled_from([0.4, 1.3]))
def test_training_rounds_as_inference_does(kind, seed, part):
    values = draw(seed, signed=not kind.rectified)
    start = start_of(values, part)
    inferred = fake_quant(values, kind.grid(start, none(kind)))
    scale = float(kind.grid(start, none(kind)).scale)
    # Two programs may round a scale's last bit apart, and no step.
    np.testing.assert_allclose(trained(kind, values, start), inferred, atol=1e-3 * scale, rtol=1e-6)


def test_masks_at_the_clips_are_the_papers():
    """Exactly at Q_P, Q_N and alpha; in numbers that float32 holds."""
    signed = {"low": jnp.float32(-128), "high": jnp.float32(127)}
    values = np.float32([[-129, -128, -127.75, 0, 126.75, 127, 127.25, 127.75]])
    ones = np.ones_like(values)
    _, slopes, grads = run(lsq(), values, signed, none(lsq()), ones)
    np.testing.assert_array_equal(slopes, [[0, 0, 1, 1, 1, 0, 0, 0]])
    inside = (-128 + 127.75) + 0 + (127 - 126.75)
    g = 1 / np.sqrt(8 * 127)
    np.testing.assert_allclose(grads["scale"], g * (-128 * 2 + inside + 127 * 3), rtol=1e-5)
    _, slopes, grads = run(learned_min_max(), values, signed, none(learned_min_max()), ones)
    np.testing.assert_array_equal(slopes, [[0, 1, 1, 1, 1, 1, 0, 0]])
    assert grads == {"low": 1, "high": 2}
    _, slopes, _ = run(tqt(), values, {**signed, "high": jnp.float32(128)}, none(tqt()), ones)
    np.testing.assert_array_equal(slopes, [[0, 1, 1, 1, 1, 1, 1, 0]])  # 127.75 rounds to 128
    rectified = {"low": jnp.float32(0), "high": jnp.float32(255)}
    values = np.float32([[0, 0.25, 254.75, 255, 300]])
    _, slopes, grads = run(pact(), values, rectified, none(pact()), np.ones_like(values))
    np.testing.assert_array_equal(slopes, [[1, 1, 1, 0, 0]])
    assert grads == {"alpha": 2}
    _, slopes, grads = run(lsq_plus(), values, rectified, none(lsq_plus()), np.ones_like(values))
    np.testing.assert_array_equal(slopes, [[0, 1, 1, 0, 0]])
    np.testing.assert_allclose(grads["offset"], 3 / np.sqrt(5 * 255), rtol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, observed(), observed(symmetric=True)], ids=repr)
@pytest.mark.parametrize("range_", [(0, 0), (-1e-30, 0), (0, 1e-30), (-1e30, 1e30), (-5, 0)])
@pytest.mark.parametrize("more", [0.0, -1e4, 1e4])
def test_nothing_is_degenerate_enough_for_nan(kind, range_, more):
    low, high = range_
    start = {"low": jnp.float32(0 if kind.rectified else low), "high": jnp.float32(high)}
    added = {name: jnp.float32(more) for name in kind.learned}
    grid = kind.grid(start, added)
    assert 0 < grid.scale < np.inf
    assert -128 <= int(grid.zero_point) <= 127
    values = np.float32([[0, -0.0, 1e-38, 1e30, -1e30, 1]])
    outputs, to_values, to_added = run(kind, values, start, added, np.ones_like(values))
    assert np.all(np.isfinite(outputs))
    assert np.all(np.isfinite(to_values))
    assert np.all(np.isfinite(list(to_added.values())))


def test_scales_come_back_from_below_zero():
    start = {"low": jnp.float32(0), "high": jnp.float32(1)}
    for kind, name in ((lsq(), "scale"), (lsq_plus(), "scale"), (pact(), "alpha")):
        added = {**none(kind), name: jnp.float32(-5)}
        values = np.float32([[0.5, 1.0]])
        _, _, grads = run(kind, values, start, added, np.ones_like(values))
        assert grads[name] > 0


def test_powers_of_two():
    for high in (0.3, 0.5, 0.51, 5.0):
        for low in (0.0, -0.1):
            start = {"low": jnp.float32(low), "high": jnp.float32(high)}
            scale = float(tqt().grid(start, none(tqt())).scale)
            assert np.log2(scale) == round(np.log2(scale))
            assert scale / 2 < high / (256 if low == 0 else 128) <= scale


def test_pact_is_regularised():
    start, added = {"low": jnp.float32(0), "high": jnp.float32(3)}, {"alpha": jnp.float32(1)}
    value, slope = jax.value_and_grad(lambda a: pact(0.01).penalty(start, a))(added)
    np.testing.assert_allclose(value, 0.01 / 2 * 16)
    np.testing.assert_allclose(slope["alpha"], 0.01 * 4)
    assert lsq().penalty(start, {"scale": added["alpha"]}) is None


def test_the_factor_does_not_depend_on_the_batch():
    values, start = draw(3, shape=(8, 6)), {"low": jnp.float32(-1), "high": jnp.float32(1)}
    whole = run(lsq(), values, start, none(lsq()), np.ones_like(values))[2]["scale"]
    parts = [
        run(lsq(), v, start, none(lsq()), np.ones_like(v))[2]["scale"] for v in np.split(values, 4)
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)


def test_a_gradient_is_scaled_and_its_value_is_not():
    value, factor = jnp.float32(0.1), jnp.float32(1 / 3)
    assert scaled_gradient(value, factor) == value
    assert jax.grad(scaled_gradient)(value, factor) == factor
    assert jax.jvp(lambda v: scaled_gradient(v, factor), (value,), (jnp.float32(3),))[1] == 1


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_vmap_is_a_loop(kind):
    values = np.stack([draw(seed, signed=not kind.rectified) for seed in range(3)])
    start = start_of(values, 0.5)
    together = jax.vmap(lambda v: kind.fake_quant(v, start, none(kind)))(values)
    for one, row in zip(values, together, strict=True):
        np.testing.assert_allclose(row, kind.fake_quant(one, start, none(kind)), rtol=1e-6)


def test_bad_settings_are_refused():
    for l2 in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="pact: l2 is .*expected a number >= 0"):
            pact(l2)


def test_they_are_values():
    assert pact() == pact(2e-4) != pact(1e-3)
    assert repr(tqt()) == "tqt(power_of_two=True)"
    assert repr(lsq()) == "lsq()"


# -- other bits


FEW = st.integers(2, 7)


def grid_of(kind, low, high):
    return kind.grid({"low": jnp.float32(low), "high": jnp.float32(high)}, none(kind))


@pytest.mark.parametrize("kind", [observed, lsq, lsq_plus, pact, learned_min_max, tqt])
@given(bits=FEW, low=st.floats(-50, 0, width=32), high=st.floats(0.015625, 50, width=32))
def test_a_grid_of_few_bits_starts_at_the_range(kind, bits, low, high):
    low = 0.0 if kind is pact or low > -0.01 else low
    grid = grid_of(kind(bits=bits), low, high)
    assert grid.bits == bits
    assert -(2 ** (bits - 1)) <= int(grid.zero_point) <= 2 ** (bits - 1) - 1
    zero, scale = int(grid.zero_point), float(grid.scale)
    bottom, top = (scale * (q - zero) for q in (grid.low, grid.high))
    # A threshold is one step beyond the greatest number of its grid (Jain et al., 2020).
    slack = (1.001 if kind is tqt else 0.501) * scale
    assert bottom <= low + slack
    assert top >= high - slack


@given(low=st.floats(-1e3, 0, width=32), high=st.floats(0, 1e3, width=32), bits=st.integers(2, 8))
def test_a_symmetric_grid_has_zero_point_0_and_covers_both_ends(low, high, bits):
    start = {"low": jnp.float32(low), "high": jnp.float32(high)}
    kind = observed(bits=bits, symmetric=True)
    grid, top = kind.grid(start, {}), 2 ** (bits - 1) - 1
    assert int(grid.zero_point) == 0
    assert grid.bits == bits
    largest = max(-np.float64(low), np.float64(high), 1e-8)
    np.testing.assert_allclose(float(grid.scale), largest / top, rtol=1e-6)
    ends = np.float32([[low, 0, high]])
    np.testing.assert_allclose(
        kind.fake_quant(ends, start, {}), ends, atol=0.5001 * float(grid.scale)
    )
    for end in (low, high):  # of the two the larger is a number of the grid
        if abs(end) == largest:
            rounded = kind.fake_quant(np.float32([[end]]), start, {})
            np.testing.assert_allclose(rounded, [[end]], rtol=1e-6)


def test_grids_of_16_bits_are_symmetric_anyway():
    start = {"low": jnp.float32(-1), "high": jnp.float32(3)}
    asked, always = (observed(bits=16, symmetric=s).grid(start, {}) for s in (True, False))
    assert (asked.scale, asked.zero_point) == (always.scale, always.zero_point)
    with pytest.raises(TypeError, match="observed: symmetric is 1, expected True or False"):
        observed(symmetric=1)


@pytest.mark.parametrize("whole", [np.int64, np.uint8, np.int32])
def test_bits_of_numpy_are_bits(whole):
    assert lsq(bits=whole(4)) == lsq(bits=4)
    assert type(observed(bits=whole(16)).bits) is int
    with pytest.raises(ValueError, match="lsq: bits is 9, expected an integer 2..8"):
        lsq(bits=whole(9))


def test_bits_that_there_are_not():
    for bits in (1, 9, 15, 17, 4.0, True, None):
        with pytest.raises(
            ValueError, match=r"observed: bits is .*, expected an integer 2..8, or 16"
        ):
            observed(bits=bits)
    with pytest.raises(ValueError, match=r"lsq: bits is 16, and grids of 16 bits are not learned"):
        lsq(bits=16)
    with pytest.raises(ValueError, match="pact: l2 is -1"):
        pact(-1, bits=4)


def test_kinds_are_printed_with_their_bits_where_these_are_others():
    kinds = (observed(), observed(bits=16), observed(symmetric=True), lsq(bits=4), pact(0.1))
    assert [str(kind) for kind in (*kinds, tqt(bits=3))] == [
        "observed()",
        "observed(bits=16)",
        "observed(symmetric=True)",
        "lsq(bits=4)",
        "pact(l2=0.1)",
        "tqt(bits=3, power_of_two=True)",
    ]
