"""Functions in integers: within one integer of the function itself, whatever the grids."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmini.compress.quantize import Grid, tables

LEVELS = np.arange(-128, 128)
FREE = {
    "gelu": (tables.gelu, functools.partial(jax.nn.gelu, approximate=True)),
    "hard_swish": (tables.hard_swish, jax.nn.hard_swish),
    "leaky_relu": (
        functools.partial(tables.leaky_relu, 0.3),
        functools.partial(jax.nn.leaky_relu, negative_slope=0.3),
    ),
}
GIVEN = {
    "sigmoid": (tables.sigmoid, jax.nn.sigmoid, Grid(1 / 256, -128)),
    "tanh": (tables.tanh, jnp.tanh, Grid(1 / 128, 0)),
    "softmax": (tables.softmax, jax.nn.softmax, Grid(1 / 256, -128)),
    "log_softmax": (tables.log_softmax, jax.nn.log_softmax, Grid(16 / 256, 127)),
}
SOURCES = {"scale": st.floats(0.002, 0.2), "zero_point": st.integers(-128, 127)}


def expected(function, source, target):
    numbers = jnp.float32((LEVELS - source.zero_point) * source.scale)
    steps = np.asarray(function(numbers), np.float64) / np.float32(target.scale)
    low, high = -128 - target.zero_point, 127 - target.zero_point
    return np.clip(np.rint(steps), low, high)


@pytest.mark.parametrize("name", FREE)
@given(**SOURCES)
@settings(deadline=None, max_examples=20)
def test_functions_of_free_grids(name, scale, zero_point):
    integers, function = FREE[name]
    source = Grid(scale, zero_point)
    values = np.asarray(function(jnp.float32((LEVELS - zero_point) * scale)))
    low, high = min(values.min(), 0), max(values.max(), 0)
    step = np.float32((high - low) / 255)
    target = Grid(step, int(np.clip(np.round(-128 - low / step), -128, 127)))
    actual = np.asarray(integers(jnp.float32(LEVELS - zero_point), source, target))
    assert np.abs(actual - expected(function, source, target)).max() <= 1


@pytest.mark.parametrize("name", GIVEN)
@given(**SOURCES)
@settings(deadline=None, max_examples=20)
def test_functions_of_given_grids(name, scale, zero_point):
    integers, function, target = GIVEN[name]
    source = Grid(scale, zero_point)
    actual = np.asarray(integers(jnp.float32(LEVELS - zero_point), source, target))
    assert np.abs(actual - expected(function, source, target)).max() <= 1
