"""Convolution and BatchNorm, the brick of every convolutional net: its borders, its initial values.

PyTorch pads symmetrically, TensorFlow and TFLite pad SAME; they differ at stride 2 on even sizes.
"""

import functools
from collections.abc import Callable
from typing import Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp

from jaxmini.models.choice import choose
from jaxmini.state import Array

Padding: TypeAlias = Literal["same", "torch"]

# Linen's momentum is the decay: 0.9 is what PyTorch calls 0.1.
BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class ConvBN(nn.Module):
    """``act(BatchNorm(convolution(x)))``, [B, H, W, C] -> [B, ceil(H/s), ceil(W/s), features].

    Attributes:
        features: channels of the output.
        kernel: its size, odd.
        stride: of the convolution.
        groups: of the channels; as many as there are channels makes it depthwise.
        act: what follows BatchNorm; None for nothing.
        zero_gamma: BatchNorm's scale starts at 0, so that a residual branch starts as nothing
            (Goyal et al. 2017, section 5.1).
        padding: "same", or "torch" for kernel // 2 on every side (in TFLite, one more PAD).
        dtype: of the computation; parameters and statistics are float32.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    act: Callable[[Array], Array] | None = nn.relu
    zero_gamma: bool = False
    padding: Padding = "same"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=borders(self.kernel, self.padding),
            feature_group_count=self.groups,
            use_bias=False,
            dtype=dtype,
            # He et al. 2015, fan-out; a fan of the whole kernel would count every group.
            kernel_init=nn.initializers.variance_scaling(2.0 * self.groups, "fan_out", "normal"),
            name="conv",
        )(x)
        scale_init = nn.initializers.zeros if self.zero_gamma else nn.initializers.ones
        norm = BatchNorm(use_running_average=not train, scale_init=scale_init, name="bn")
        x = norm(x.astype(jnp.float32)).astype(dtype)
        return x if self.act is None else self.act(x)


def borders(kernel: int, padding: Padding) -> str | tuple[tuple[int, int], ...]:
    """The padding of a square window, as lax takes it.

    Raises:
        ValueError: ``padding`` is neither "same" nor "torch".
    """
    side = kernel // 2
    return choose("padding", padding, {"same": "SAME", "torch": ((side, side), (side, side))})
