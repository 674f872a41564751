"""Functions without convolutions that spread: the same numbers, and none of them left at any depth."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmini.export.spreading import without_spreading

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def spread(kernel: tuple[int, ...], steps: tuple[int, ...], **changes: Any) -> Callable:
    """A transposed convolution by ``lax`` itself."""
    weights, axes = normal(*kernel), "HWD"[: len(steps)]
    asked = {"window_strides": (1,) * len(steps), "padding": ((2, 1),) * len(steps)}
    layout = {"dimension_numbers": (f"N{axes}C", f"{axes}IO", f"N{axes}C")}

    def function(x: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, weights, **(asked | layout | changes), lhs_dilation=steps
        )

    return function


PLAIN = spread((3, 3, 4, 2), (2, 2))


def scanned(x: jax.Array) -> jax.Array:
    step = spread((3, 3, 4, 4), (2, 2), padding=((1, 1), (1, 1)))
    return lax.scan(lambda carry, _: (step(carry)[:, :5, :4], None), x, None, length=2)[0]


@jax.custom_vjp
def own_gradient(x: jax.Array) -> jax.Array:
    return PLAIN(x)


own_gradient.defvjp(lambda x: (PLAIN(x), None), lambda _, g: (g,))

PICTURE = (2, 5, 4, 4)
FORMS = {
    "pictures": (PLAIN, PICTURE),
    "one_axis_of_two": (spread((4, 2, 4, 3), (3, 1)), PICTURE),
    "dilated": (spread((2, 3, 4, 2), (2, 3), rhs_dilation=(2, 1)), PICTURE),
    "groups": (spread((3, 3, 2, 6), (2, 2), feature_group_count=2), PICTURE),
    "strides": (spread((3, 3, 4, 2), (2, 3), window_strides=(1, 2)), PICTURE),
    "channels_first": (
        spread((2, 5, 3, 3), (2, 2), dimension_numbers=("NCHW", "OIHW", "NCHW")),
        PICTURE,
    ),
    "sequences": (spread((3, 4, 2), (2,)), (2, 5, 4)),
    "volumes": (spread((2, 2, 3, 4, 2), (2, 1, 3)), (1, 3, 4, 2, 4)),
    "in_jit": (jax.jit(lambda x: nn.relu(PLAIN(x)) + 1), PICTURE),
    "in_checkpoint": (jax.checkpoint(PLAIN), PICTURE),
    "with_a_gradient_of_its_own": (own_gradient, PICTURE),
    "in_a_scan": (scanned, PICTURE),
    "in_a_choice": (lambda x: lax.cond(x.sum() > 0, PLAIN, lambda x: 2 * PLAIN(x), x), PICTURE),
}


def dilations(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation.params["lhs_dilation"]
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            body = getattr(value, "jaxpr", value)
            yield from dilations(body) if hasattr(body, "eqns") else ()


@pytest.mark.parametrize("name", FORMS)
def test_the_numbers_are_the_same_and_nothing_spreads(name: str):
    function, shape = FORMS[name]
    x = normal(*shape)
    rewritten = without_spreading(function, x)
    found = jax.jit(rewritten)(x)
    np.testing.assert_allclose(found, jax.jit(function)(x), atol=2e-5)
    inside = list(dilations(jax.make_jaxpr(rewritten)(x).jaxpr))
    assert inside
    assert all(step == 1 for steps in inside for step in steps)
    before = dilations(jax.make_jaxpr(function)(x).jaxpr)
    assert any(step != 1 for steps in before for step in steps)


def test_several_inputs_and_outputs_keep_their_structure():
    def function(x: jax.Array, y: jax.Array) -> dict[str, Any]:
        return {"up": PLAIN(x), "sum": (x + y, y)}

    x, y = normal(*PICTURE), normal(*PICTURE)
    found, expected = without_spreading(function, x, y)(x, y), function(x, y)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_a_function_without_any_comes_back_as_it_is():
    def function(x: jax.Array) -> jax.Array:
        return jnp.tanh(spread((3, 3, 4, 2), (1, 1))(x))

    assert without_spreading(function, normal(*PICTURE)) is function
