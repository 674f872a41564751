"""ONNX convolutions: each computes what JAX's does, of one to three axes of pixels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmini.compress.quantize.program import Op, trace
from jaxmini.export.onnx_convolution import convolved, is_plain, outputs_first
from jaxmini.export.onnx_layout import Tensor, Writer, as_in_jax, channels_first
from tests.export.onnx_graphs import Plain, answers, in_pairs, model_that, planned

RNG = np.random.default_rng(0)
LAYOUTS = {3: ("NWC", "WIO", "NWC"), 4: ("NHWC", "HWIO", "NHWC"), 5: ("NDHWC", "DHWIO", "NDHWC")}


def drawn(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def convolution(kernel: np.ndarray, **options: object) -> Callable[[jax.Array], jax.Array]:
    options = {"window_strides": (1,) * (kernel.ndim - 2), "padding": "SAME"} | options
    options = {"dimension_numbers": LAYOUTS[kernel.ndim]} | options

    def function(x: jax.Array) -> jax.Array:
        with jax.named_scope("Net/stem"):
            return lax.conv_general_dilated(x, jnp.asarray(kernel), **options)

    return function


def op_of(function: Callable, shape: tuple[int, ...]) -> Op:
    model = model_that(lambda params, x: function(x))
    (op,) = trace(model, {"params": {}}, jax.ShapeDtypeStruct(shape, jnp.float32)).ops
    return op


def written(op: Op, shape: tuple[int, ...], *arrays: np.ndarray, open_batch: bool):
    """The writer of a convolution of the input, its kernel HWIO and a bias given, and what it gives."""
    writer = Writer(planned(lambda p, x: x, shape), Plain(), open_batch=open_batch)
    kernel, *bias = arrays
    weights = [writer.graph.array("weight", array) for array in (outputs_first(kernel), *bias)]
    source = Tensor("image", as_in_jax(len(shape)), "input")
    return writer, convolved(writer, op, source, kernel.shape[:-2], weights)


KINDS = {
    "of one axis": ((2, 9, 3), (4, 3, 5), {"window_strides": (2,), "padding": ((3, 1),)}),
    "of two axes": (
        (2, 6, 7, 3),
        (3, 2, 3, 4),
        {"window_strides": (2, 1), "padding": ((1, 0), (0, 2)), "rhs_dilation": (1, 2)},
    ),
    "of three axes": (
        (2, 4, 5, 3, 2),
        (1, 3, 2, 2, 3),
        {"window_strides": (1, 2, 1), "padding": ((0, 0), (2, 0), (0, 1))},
    ),
    "in groups": ((2, 5, 4, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
    "depthwise": ((2, 5, 4, 3), (2, 3, 1, 6), {"feature_group_count": 3}),
}


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_a_convolution_computes_what_jaxs_does(name: str, open_batch: bool):
    shape, window, options = KINDS[name]
    kernel, bias = drawn(*window), drawn(window[-1])
    function = convolution(kernel, **options)
    op = op_of(function, shape)
    assert is_plain(op, len(shape))
    writer, result = written(op, shape, kernel, bias, open_batch=open_batch)
    assert result.order == channels_first(len(shape))
    x = drawn(2 + 2 * open_batch, *shape[1:])
    expected = in_pairs(function, x)
    found = answers(writer, result, x, expected.shape)
    np.testing.assert_allclose(
        found, expected + bias.reshape((1,) * (x.ndim - 1) + (-1,)), atol=1e-5
    )


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_kernels_have_their_outputs_first(rank: int):
    kernel = drawn(*(5, 4, 2, 3, 7)[-rank:])
    stored = outputs_first(kernel)
    assert stored.flags.c_contiguous
    np.testing.assert_array_equal(stored, np.moveaxis(kernel, (-1, -2), (0, 1)))


def test_negative_padding_is_refused_with_the_way_out():
    kernel = drawn(3, 3, 3, 4)
    op = op_of(convolution(kernel, padding=((0, 0), (-1, 0))), (2, 6, 6, 3))
    with pytest.raises(
        ValueError,
        match=r"onnx: its padding is negative \('conv_general_dilated' in the module Net/stem\): "
        "cut the picture with a slice",
    ):
        written(op, (2, 6, 6, 3), kernel, open_batch=True)


@pytest.mark.parametrize(
    ("shape", "window", "options"),
    [
        ((2, 3, 6, 6), (3, 3, 3, 4), {"dimension_numbers": ("NCHW", "HWIO", "NHWC")}),
        ((2, 6, 6, 3), (3, 3, 3, 4), {"dimension_numbers": ("NHWC", "HWIO", "NCHW")}),
        ((2, 6, 6, 3), (4, 3, 3, 3), {"dimension_numbers": ("NHWC", "OHWI", "NHWC")}),
        ((2, 6, 6, 3), (3, 3, 3, 4), {"batch_group_count": 2}),
        ((2, 6, 6, 3), (3, 3, 3, 4), {"lhs_dilation": (1, 2), "padding": ((1, 1), (1, 1))}),
    ],
    ids=["channels first", "channels first after", "OHWI", "groups of the batch", "spread"],
)
def test_other_convolutions_are_known(shape: tuple, window: tuple, options: dict):
    """Those that a node of the file would compute otherwise."""
    assert not is_plain(op_of(convolution(drawn(*window), **options), shape), 4)
