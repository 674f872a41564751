"""ONNX convolutions: their kernels have the outputs first, and borders are not cut by them."""

from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini.export import onnx
from jaxmini.export.onnx_convolution import outputs_first
from tests.export.onnx_nets import artifact_of


@pytest.mark.parametrize("window", [(5,), (5, 6), (5, 6, 7)])
def test_outputs_come_first(window: tuple[int, ...]):
    kernel = np.random.default_rng(0).normal(size=(*window, 3, 4))
    turned = outputs_first(kernel)
    assert turned.shape == (4, 3, *window)
    np.testing.assert_array_equal(turned[1, 2], kernel[..., 2, 1])


class Cutting(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.Conv(4, (3, 3), padding=((-1, 0), (0, 0)))(x).mean((1, 2)))


def test_negative_padding_is_refused(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"padding is negative \('conv_general_dilated' in .*slice"
    ):
        onnx(artifact_of(Cutting(), integer=False), tmp_path / "net.onnx")
