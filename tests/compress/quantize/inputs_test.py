"""Inputs: what no plan can be made for, and batches that show nothing, are refused by their name."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_nets import Residual, pictures, start

from jaxmini.compress.quantize import (
    adaround,
    calibrate,
    correct_bias,
    equalize,
    make_plan,
    quantize,
    sensitivity_of,
)
from jaxmini.compress.quantize.inputs import batches_of, check_array
from jaxmini.model import from_linen

(ROWS,) = jax.export.symbolic_shape("b")
(HEIGHT,) = jax.export.symbolic_shape("h")
METHODS = {
    "calibrate": calibrate,
    "equalize": equalize(),
    "adaround": adaround(steps=1),
    "correct_bias": correct_bias(),
    "sensitivity": sensitivity_of,
}
Pair = collections.namedtuple("Pair", ("image", "label"))


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.fixture(scope="module")
def net():
    x, model = pictures(4), from_linen(Residual())
    quantized = quantize(model)
    return quantized, calibrate(quantized, start(model, x), [x]), x


@pytest.mark.parametrize(
    "inputs",
    [np.zeros((2, 3)), jnp.zeros((2, 0)), spec(4, 8, 8, 3), spec(ROWS, 8, 8, 3), spec(0, 8)],
)
def test_arrays_of_known_sizes_pass(inputs):
    check_array("here", inputs)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (
            spec(None, 8, 8, 3),
            ValueError,
            r"shape \(None, 8, 8, 3\), and size None of axis 0 is unk",
        ),
        (
            spec(1, None, 8, 3),
            ValueError,
            "size None of axis 1 is unknown: .* write a number there",
        ),
        (
            spec(1, HEIGHT, 8, 3),
            ValueError,
            r"shape \(1, h, 8, 3\), and size h of axis 1 is unknown",
        ),
        (spec(-1, 8, 8, 3), ValueError, "size -1 of axis 0 is unknown"),
        (spec(1, 8, -1, 3), ValueError, "size -1 of axis 2 is unknown"),
        (
            np.float32(1),
            ValueError,
            r"is a single number, expected an array of examples \[B, ...\]",
        ),
        ({"image": np.ones(3), "label": 1}, TypeError, r"is a dict, .*alone, as batch\['image'\]"),
        ({"x": np.ones(3)}, TypeError, r"is a dict, expected one array: .* as batch\['x'\]"),
        (
            Pair(np.ones(3), 1),
            TypeError,
            "is a Pair, expected one array: wrap what it takes in one",
        ),
        ([np.ones(3)], TypeError, r"is a list, expected one array: .*np.stack\(pictures\)"),
        (None, TypeError, "is a NoneType, expected one array"),
        ({}, TypeError, "is a dict, expected one array"),
    ],
)
def test_what_is_none_says_what_to_write(inputs, error, message):
    with pytest.raises(error, match=f"^here .*{message}"):
        check_array("here", inputs)


def test_a_plan_is_of_one_array_of_known_sizes(net):
    model, variables, x = net
    for inputs, error, message in (
        (
            spec(None, 12, 12, 3),
            ValueError,
            "quantize: the model's input has .* size None of axis 0",
        ),
        (spec(1, HEIGHT, 12, 3), ValueError, "quantize: the model's input has .* size h of axis 1"),
        ({"image": x}, TypeError, "quantize: the model's input is a dict, .*batch.'image'."),
    ):
        for refused in (
            lambda: make_plan(model, variables, inputs),  # noqa: B023
            lambda: model.apply(variables, inputs),  # noqa: B023
            lambda: model.init(jax.random.key(0), inputs),  # noqa: B023
        ):
            with pytest.raises(error, match=message):
                refused()
    assert make_plan(model, variables, spec(ROWS, 12, 12, 3)).output_site


@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_what_shows_nothing(name, net):
    (model, variables, x), method = net, METHODS[name]
    for batches, error, message in (
        (x, ValueError, rf"{name}: got one array, expected batches of pictures: write \[images\]"),
        ([x[:0]], ValueError, f"{name}: there are no pictures to see: give it a few hundred"),
        ([], ValueError, f"{name}: there are no pictures to see"),
        (iter(()), ValueError, f"{name}: there are no pictures to see"),
        ([{"image": x}], TypeError, rf"{name}: batch 0 is a dict, .* as batch\['image'\]"),
        ({"image": x}, TypeError, f"{name}: batch 0 is a str, expected one array"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            method(model, variables, batches)


def test_empty_batches_are_left_out_and_keep_their_number(net):
    model, variables, x = net
    assert [number for number, _ in batches_of("here", [x[:0], x[:1], x[:0], x])] == [1, 3]
    found = calibrate(model, variables, [x[:0], x, x[:0]])
    jax.tree.map(np.testing.assert_array_equal, found, calibrate(model, variables, [x]))
    with pytest.raises(ValueError, match="not finite in batch 2"):
        calibrate(model, variables, [x[:0], x, x.at[0].set(jnp.nan)])
