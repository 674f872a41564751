"""Turned: turning moves numbers and changes none, and the gradient is that of the convolution."""

import jax
import numpy as np
import pytest

from jaxmini.cpu import turned
from tests.cpu.case import convolutions, forced, net
from tests.cpu.reference import evaluate, integers


@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (1, 1, 1, 1)])
def test_turning_is_a_transpose(shape: tuple[int, ...]):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    both = jax.jit(lambda x: (turned.features_first(x), turned.examples_inside(x)))
    first, inside = both(x)
    np.testing.assert_array_equal(first, x.transpose(3, 1, 2, 0))
    np.testing.assert_array_equal(inside, x.transpose(1, 2, 0, 3))


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (-1, 1))])
def test_the_filter_gradient_is_the_convolutions(padding):
    _, _, gradient = convolutions(net(6, 3, 3, 5, batch=3, padding=padding))
    operands = integers(gradient)
    result = jax.jit(forced(turned.filter_gradient, gradient, is_filter=True))(*operands)
    np.testing.assert_array_equal(result, evaluate(gradient, *operands))
