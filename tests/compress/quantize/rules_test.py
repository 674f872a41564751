"""Rules: what no rule knows, or knows under conditions only, is refused with its module and the way out."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quantize_checks import plan_of
from quantize_functions import alone, planned
from quantize_nets import Residual, pictures

from jaxmini.compress.quantize import make_plan
from jaxmini.compress.quantize.plan import AveragePool, Elementwise, Mean, Move, Rectifier, Weighted
from jaxmini.model import from_linen


class Inner(nn.Module):
    function: object

    @nn.compact
    def __call__(self, x):
        return self.function(nn.Conv(4, (3, 3))(x))


class Outer(nn.Module):
    function: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(Inner(self.function, name="block")(x).mean((1, 2)))


REFUSED = {
    "sin": (jnp.sin, r"'sin' has no int8 form \('sin' in the module Outer/block\)"),
    "square": (jnp.square, "write x \\* x; write normalisation as nn.LayerNorm"),
    "softmax": (functools.partial(jax.nn.softmax, axis=1), "softmax over the last axis"),
    "gelu": (functools.partial(nn.gelu, approximate=False), "nn.gelu\\(x, approximate=True\\)"),
    "integers": (lambda x: x.astype(jnp.int32).astype(jnp.float32), "compute in floats"),
    "argmax": (lambda x: jnp.argmax(x, -1, keepdims=True), "take the largest outside"),
    "examples": (
        lambda x: jnp.einsum("bhwc,dhwc->bdhw", x, x),
        "activations of different examples",
    ),
    "power": (lambda x: x**3, "'integer_pow'"),
    "pad": (
        lambda x: lax.pad(x, x[0, 0, 0, 0], ((0, 0, 0), (1, 1, 0), (0, 0, 0), (0, 0, 0))),
        "pads with a number that is computed",
    ),
    "sum": (lambda x: x.sum((1, 2), keepdims=True), "a sum that is no mean"),
    "reciprocal": (lambda x: 1 / x, "'div'"),
    "island": (jnp.sin, r"or declare it a float_island\('block'\)"),
    "mask": (lambda x: jnp.where(x > 0, x, -1e9), "known before the model runs"),
    "mixed_mask": (
        lambda x: x + jnp.where(jnp.eye(12, 4, dtype=bool), 1.0, -1e9)[None, None],
        "a mask and numbers in one",
    ),
    "hidden_row": (
        lambda x: jnp.where(jnp.eye(12, 4, dtype=bool), x, -1e9),
        "hides all numbers of a row",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integers_is_refused(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        plan_of(Outer(function), pictures())
    assert "Outer/block" in str(error.value)


def test_uncounted_padding_is_refused():
    def pool(x):
        with jax.numpy_dtype_promotion("standard"):
            return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)

    with pytest.raises(ValueError, match="count_include_pad=True"):
        plan_of(Outer(pool), pictures())


def test_pictures_of_bytes_are_refused():
    model, x = from_linen(Residual()), pictures()
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    promotion = jax.numpy_dtype_promotion("standard")
    with promotion, pytest.raises(ValueError, match="input is uint8"):
        make_plan(model, variables, jax.ShapeDtypeStruct(x.shape, np.uint8))


def test_an_output_without_input_is_refused():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.param("table", nn.initializers.ones, (3,))

    with pytest.raises(ValueError, match="does not depend on its input"):
        plan_of(Net(), pictures())


TABLE = np.arange(24, dtype=np.float32).reshape(1, 6, 4)


@pytest.mark.parametrize(
    ("function", "shape", "kind", "label"),
    [
        (lambda x: x + 1, (2, 4), Weighted, ":scale"),
        (lambda x: x * TABLE, TABLE.shape, Elementwise, ":mul"),
        (lambda x: x - 0.5 * x[:, ::-1], (2, 4), Elementwise, ":sub"),
        (lambda x: x.mean(1), (2, 4, 3), Mean, ":mean"),
        (lambda x: (1 / 4) * x.sum(1), (2, 4, 3), Mean, ":mean"),
        (lambda x: x.reshape(2, -1), (2, 4, 3), Move, ":reshape"),
        (lambda x: jax.nn.relu(x), (2, 4), Rectifier, ":relu"),
        (lambda x: jnp.maximum(x, x[:, ::-1]), (2, 4), Move, ":maximum"),
    ],
)
def test_an_operation_becomes_its_kind_of_group(function, shape, kind, label):
    last = planned(alone(function), shape).groups[-1]
    assert type(last) is kind
    assert last.name == label


def test_an_average_pool_divides_by_the_size_of_its_windows():
    def pool(x, by):
        window, strides = (1, 2, 3, 1), (1, 2, 3, 1)
        return lax.reduce_window(x, 0.0, lax.add, window, strides, "VALID") / by

    (group,) = planned(alone(functools.partial(pool, by=6.0)), (2, 4, 6, 3)).groups
    assert (type(group), group.count) == (AveragePool, 6)
    with pytest.raises(ValueError, match="windows are not divided by one number"):
        planned(alone(functools.partial(pool, by=5.0)), (2, 4, 6, 3))


def test_a_dilated_average_pool_is_refused():
    def pool(x):
        padding = ((0, 0),) * 3
        return (
            lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1,) * 3, padding, None, (1, 2, 1)) / 2.0
        )

    with pytest.raises(ValueError, match="its windows are dilated"):
        planned(alone(pool), (2, 6, 3))


def test_a_kernel_that_is_computed_from_the_input_is_refused():
    def function(x):
        kernel = x[0, :2, :2, :, None]
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    with pytest.raises(ValueError, match="its kernel is computed from the input"):
        planned(alone(function), (2, 4, 4, 3))
