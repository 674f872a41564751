"""The reference nets of MLPerf Tiny (Banbury et al. 2021), for microcontrollers: one module, a table each.

They follow Keras, as the benchmark does: a convolution has a bias besides its BatchNorm, borders are SAME.
"""

import dataclasses
import math
from typing import Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp

from jaxmini.state import Array


@dataclasses.dataclass(frozen=True)
class Conv:
    """Row: a convolution with bias, BatchNorm and ReLU."""

    features: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class Separable:
    """Row: a depthwise 3x3 convolution with the stride, then a 1x1 one; bias, BatchNorm, ReLU after each."""

    features: int
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class Residual:
    """Row: two 3x3 convolutions, added to the input and rectified.

    Where the shape changes, the input goes through a 1x1 convolution with bias and without BatchNorm.
    """

    features: int
    stride: int = 1


Row: TypeAlias = Conv | Separable | Residual

MOBILENET_V1: tuple[Row, ...] = (
    Conv(32, stride=2),
    Separable(64),
    Separable(128, stride=2),
    Separable(128),
    Separable(256, stride=2),
    Separable(256),
    Separable(512, stride=2),
    *5 * (Separable(512),),
    Separable(1024, stride=2),
    Separable(1024),
)

DS_CNN: tuple[Row, ...] = (Conv(64, kernel=(10, 4), stride=2), *4 * (Separable(64),))

# Keras' BatchNorm; its momentum is the decay, as linen's is.
EPSILON, MOMENTUM = 1e-3, 0.99


class TinyNet(nn.Module):
    """Pictures float [B, H, W, C] -> logits float32 [B, num_classes], or pooled features [B, F].

    Attributes:
        rows: the layers before the mean over the picture.
        num_classes: None returns the features that the classifier would read.
        even_height: the mean leaves the last row of an odd number of rows out.
    """

    rows: tuple[Row, ...]
    num_classes: int | None = None
    even_height: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        for i, row in enumerate(self.rows):
            x = _ROWS[type(row)](row, x, train, f"row{i}")
        if self.even_height:
            x = x[:, : x.shape[1] // 2 * 2]
        x = jnp.mean(x, axis=(1, 2))
        return x if self.num_classes is None else nn.Dense(self.num_classes, name="head")(x)


class Autoencoder(nn.Module):
    """Features float [B, ...] of N numbers -> the same numbers again, float32 [B, N].

    Attributes:
        widths: of the dense layers, each with BatchNorm and ReLU, before the linear last one.
    """

    widths: tuple[int, ...] = (128, 128, 128, 128, 8, 128, 128, 128, 128)

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        x = x.reshape(x.shape[0], -1)
        inputs = x.shape[-1]
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, name=f"dense{i}")(x)
            x = nn.relu(_norm(f"bn{i}", train)(x))
        return nn.Dense(inputs, name="head")(x)


def mlperf_resnet8(num_classes: int | None = 10, *, width: int = 16) -> TinyNet:
    """Image classification: 78,186 parameters on 32x32x3, of width 40 those of the second, larger task.

    It is not ``resnet_cifar(8)``: that has no biases, and BatchNorm in its shortcuts.

    Args:
        num_classes: None for pooled features [B, 4 * width].
        width: channels of the first convolution.

    Raises:
        ValueError: width below 1.
    """
    if not width >= 1:  # nor is nan
        raise ValueError(f"mlperf_resnet8: width is {width}, expected at least 1")
    blocks = (Residual(width), Residual(2 * width, stride=2), Residual(4 * width, stride=2))
    return TinyNet((Conv(width), *blocks), num_classes)


def mlperf_mobilenet_v1(num_classes: int | None = 2, *, width: float = 0.25) -> TinyNet:
    """Visual wake words: MobileNetV1 (Howard et al. 2017); 216,322 parameters on 96x96x3.

    Args:
        num_classes: None for pooled features [B, 1024 * width].
        width: multiplier of the channels.

    Raises:
        ValueError: a row would have no channel, or without end many.
    """
    if not 1 / 32 <= width < math.inf:
        raise ValueError(f"mlperf_mobilenet_v1: width is {width}, expected at least 1/32, finite")
    rows = tuple(
        dataclasses.replace(row, features=int(row.features * width)) for row in MOBILENET_V1
    )
    return TinyNet(rows, num_classes)


def mlperf_ds_cnn(num_classes: int | None = 12) -> TinyNet:
    """Keyword spotting on 49x10x1 cepstral coefficients (Zhang et al. 2017); 23,756 parameters.

    The reference drops 20 % and 40 % of the numbers in training too, which is left out here.

    Args:
        num_classes: None for pooled features [B, 64].
    """
    return TinyNet(DS_CNN, num_classes, even_height=True)


def mlperf_autoencoder(**fields: Any) -> Autoencoder:
    """Anomaly detection: an auto-encoder of 640 spectral features; 267,928 parameters.

    Args:
        **fields: of ``Autoencoder``.
    """
    return Autoencoder(**fields)


def _conv(
    features: int, kernel: tuple[int, int], stride: int, name: str, groups: int = 1
) -> nn.Conv:
    # He et al. 2015; the fan-in of linen's kernels is that of one group.
    return nn.Conv(
        features,
        kernel,
        strides=stride,
        feature_group_count=groups,
        kernel_init=nn.initializers.he_normal(),
        name=name,
    )


def _norm(name: str, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train, momentum=MOMENTUM, epsilon=EPSILON, name=name
    )


def _convolved(row: Conv, x: Array, train: bool, name: str) -> Array:
    x = _conv(row.features, row.kernel, row.stride, f"{name}_conv")(x)
    return nn.relu(_norm(f"{name}_bn", train)(x))


def _separable(row: Separable, x: Array, train: bool, name: str) -> Array:
    channels = x.shape[-1]
    x = _conv(channels, (3, 3), row.stride, f"{name}_depthwise", groups=channels)(x)
    x = nn.relu(_norm(f"{name}_depthwise_bn", train)(x))
    return _convolved(Conv(row.features, (1, 1)), x, train, name)


def _residual(row: Residual, x: Array, train: bool, name: str) -> Array:
    y = _convolved(Conv(row.features, stride=row.stride), x, train, f"{name}_first")
    y = _conv(row.features, (3, 3), 1, f"{name}_second_conv")(y)
    y = _norm(f"{name}_second_bn", train)(y)
    if x.shape != y.shape:
        x = _conv(row.features, (1, 1), row.stride, f"{name}_shortcut")(x)
    return nn.relu(x + y)


_ROWS = {Conv: _convolved, Separable: _separable, Residual: _residual}
