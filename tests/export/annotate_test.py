"""Annotate: every number of a plan is marked with its grid, once, in the form that converters read."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import Frozen, Grid, make_plan
from jaxmini.compress.quantize.frozen import FrozenConstant, FrozenKernel
from jaxmini.compress.quantize.grid import dequantized, quantized
from jaxmini.export.annotate import (
    annotated,
    dequantize,
    fake_quant,
    fake_quant_kernel,
    quantize,
)
from jaxmini.model import Model

# Powers of two: how a division is rounded does not matter.
GRID = Grid(np.float32(0.25), np.int32(-5))
VALUES = jnp.asarray(np.linspace(-40, 40, 161, dtype=np.float32))


def marks(function, *arguments) -> list[tuple[str, dict[str, Any]]]:
    """The composites of a function, in order: their names and attributes."""
    equations = jax.make_jaxpr(function)(*arguments).eqns
    return [
        (equation.params["name"], attributes(equation))
        for equation in equations
        if equation.primitive.name == "composite"
    ]


def attributes(equation: Any) -> dict[str, Any]:
    """Of a composite: JAX holds each as the leaves of a tree."""
    return {name: leaves[0] for name, leaves, _ in equation.params["attributes"]}


def plain(held: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(getattr(value, "val", value)).tolist() for name, value in held.items()}


def test_the_bodies_compute_what_the_marks_say():
    integers = quantized(VALUES, GRID)
    np.testing.assert_array_equal(quantize(VALUES, GRID), integers)  # ties to even, ends clipped
    np.testing.assert_array_equal(dequantize(integers, GRID), dequantized(integers, GRID))
    np.testing.assert_array_equal(fake_quant(VALUES, GRID), VALUES)
    assert quantize(VALUES, GRID).dtype == jnp.int8


@pytest.mark.parametrize("mark", [fake_quant, quantize])
def test_a_mark_carries_the_grid_in_the_types_of_the_schema(mark):
    ((name, held),) = marks(lambda x: mark(x, GRID), VALUES)
    assert name == f"quant.{mark.__name__}"
    assert plain(held) == {
        "scale": [0.25],
        "zero_point": [-5],
        "dtype": "i8",
        "narrow_range": False,
    }


@pytest.mark.parametrize(
    ("shape", "axis", "marked"), [((3, 3, 2, 4), 3, (3, 3, 2, 4)), ((5, 4), 0, (4, 5))]
)
def test_a_kernel_is_marked_a_scale_a_channel(shape, axis, marked):
    """A matrix in the order of the file."""
    scale, kernel = np.float32([0.5, 1, 2, 4]), np.arange(np.prod(shape), dtype=np.float32)
    kernel = kernel.reshape(shape)
    np.testing.assert_array_equal(fake_quant_kernel(jnp.asarray(kernel), scale), kernel)
    made = jax.make_jaxpr(lambda k: fake_quant_kernel(k, scale))(kernel)
    (equation,) = (e for e in made.eqns if e.primitive.name == "composite")
    assert equation.invars[0].aval.shape == marked
    assert plain(attributes(equation)) == {
        "scale": [0.5, 1, 2, 4],
        "dtype": "i8",
        "narrow_range": True,
        "quantization_dimension": axis,
    }


SHAPE = (1, 2, 4)
TABLE = np.full((1, 2, 3), 0.75, np.float32)
MODEL = Model(
    init=lambda key, inputs: {},
    apply=lambda variables, x, **_: (jax.nn.relu(x @ variables["params"]["w"]) * TABLE, {}),
)
W = np.arange(12, dtype=np.float32).reshape(4, 3) - 6
PLAN = make_plan(MODEL, {"params": {"w": W}}, jax.ShapeDtypeStruct(SHAPE, jnp.float32))
SITES = {site: Grid(np.float32(2.0**-n), np.int32(n)) for n, site in enumerate(PLAN.sites, 1)}
FROZEN = Frozen(
    SITES,
    {
        ":dense": FrozenKernel(
            W.astype(np.int8), np.float32([1, 2, 3]), np.int32([4, 5, 6]), np.float32(0.5)
        )
    },
    {":mul#1": FrozenConstant(np.full((1, 2, 3), 3, np.int8), Grid(np.float32(0.25), np.int32(0)))},
)


def scale_of(held: dict[str, Any]) -> list[float]:
    return plain(held)["scale"]


def test_a_plan_is_marked_from_its_int8_input_to_its_int8_output():
    assert PLAN.sites == ("input", ":dense", ":mul")
    image = jax.ShapeDtypeStruct(SHAPE, jnp.int8)
    found = marks(annotated(PLAN, FROZEN), image)
    assert [(name.removeprefix("quant."), scale_of(about)) for name, about in found] == [
        ("dequantize", [0.5]),
        ("fake_quant", [1, 2, 3]),
        ("fake_quant", [0.25]),
        ("fake_quant", [0.25]),
        ("fake_quant", [0.125]),
        ("quantize", [0.125]),
    ]
    out = jax.eval_shape(annotated(PLAN, FROZEN), image)
    assert (out.shape, out.dtype) == ((1, 2, 3), jnp.int8)


def test_other_values_may_be_outputs_too_each_on_its_grid():
    image = jax.ShapeDtypeStruct(SHAPE, jnp.int8)
    (dense, _) = PLAN.groups
    function = annotated(PLAN, FROZEN, *dense.outputs)
    logits, embedding = jax.eval_shape(function, image)
    assert logits.dtype == embedding.dtype == jnp.int8
    found = [about for name, about in marks(function, image) if name == "quant.quantize"]
    assert [scale_of(about) for about in found] == [[0.125], [0.25]]


def test_what_shares_the_site_of_the_input_is_no_argument():
    model = Model(
        init=lambda key, inputs: {},
        apply=lambda variables, x, **_: (jnp.maximum(x, x @ variables["params"]["w"]), {}),
    )
    w = np.eye(4, dtype=np.float32)
    plan = make_plan(model, {"params": {"w": w}}, jax.ShapeDtypeStruct(SHAPE, jnp.float32))
    assert plan.sites == ("input",)
    kernel = FrozenKernel(
        w.astype(np.int8), np.ones(4, np.float32), np.zeros(4, np.int32), GRID.scale
    )
    found = marks(
        annotated(plan, Frozen({"input": GRID}, {":dense": kernel}, {})),
        jax.ShapeDtypeStruct(SHAPE, jnp.int8),
    )
    assert [(name.removeprefix("quant."), scale_of(about)) for name, about in found] == [
        ("dequantize", [0.25]),
        ("fake_quant", [1, 1, 1, 1]),
        ("fake_quant", [0.25]),
        ("quantize", [0.25]),
    ]
