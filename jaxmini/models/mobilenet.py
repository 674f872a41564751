"""Mobile nets of inverted residual blocks: one module, driven by a table of rows.

MobileNetV2 (Sandler et al. 2018) and MobileNetV4 (Qin et al. 2024) are two tables of it; both have
no activation but ReLU, so everything but the additions fuses into integer convolutions.
"""

import dataclasses
import functools
import math
from typing import Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp

from jaxmini.models.conv_bn import ConvBN, Padding
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True)
class Conv:
    """Row: a convolution, BatchNorm and the activation."""

    features: int
    kernel: int = 3
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class Inverted:
    """Row: ``repeats`` inverted residual blocks; the stride is the first one's.

    A block is [depthwise ``start``, no activation] -> [1x1 to ``expand`` times the channels] ->
    [depthwise ``kernel``] -> 1x1 to ``features``, no activation; a depthwise size of 0, or an
    expansion of 1, leaves that layer out. With ``start`` it is MobileNetV4's universal inverted
    bottleneck.
    """

    features: int
    expand: int
    stride: int = 1
    kernel: int = 3
    start: int = 0
    repeats: int = 1


Row: TypeAlias = Conv | Inverted

MOBILENET_V2: tuple[Row, ...] = (
    Conv(32, stride=2),
    Inverted(16, expand=1),
    Inverted(24, expand=6, stride=2, repeats=2),
    Inverted(32, expand=6, stride=2, repeats=3),
    Inverted(64, expand=6, stride=2, repeats=4),
    Inverted(96, expand=6, repeats=3),
    Inverted(160, expand=6, stride=2, repeats=3),
    Inverted(320, expand=6),
    Conv(1280, kernel=1),
)

MOBILENET_V4_CONV_S: tuple[Row, ...] = (
    Conv(32, stride=2),
    Conv(32, stride=2),
    Conv(32, kernel=1),
    Conv(96, stride=2),
    Conv(64, kernel=1),
    Inverted(96, expand=3, stride=2, kernel=5, start=5),
    Inverted(96, expand=2, repeats=4),
    Inverted(96, expand=4, kernel=0, start=3),
    Inverted(128, expand=6, stride=2, start=3),
    Inverted(128, expand=4, kernel=5, start=5),
    Inverted(128, expand=4, kernel=5),
    Inverted(128, expand=3, kernel=5),
    Inverted(128, expand=4, repeats=2),
    Conv(960, kernel=1),
)


class InvertedResidual(nn.Module):
    """One block of an ``Inverted`` row, [B, H, W, C] -> [B, ceil(H/s), ceil(W/s), features]."""

    row: Inverted
    relu6: bool = False
    padding: Padding = "same"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        row, y = self.row, x
        act = nn.relu6 if self.relu6 else nn.relu
        conv = functools.partial(ConvBN, padding=self.padding, dtype=self.dtype)
        # The stride sits on the middle depthwise layer, on the first where there is no other.
        start_stride, stride = (1, row.stride) if row.kernel else (row.stride, 1)
        if row.start:
            c = y.shape[-1]
            start = conv(c, row.start, start_stride, groups=c, act=None, name="start")
            y = start(y, train=train)
        if row.expand != 1:
            wide = divisible(row.expand * y.shape[-1])
            y = conv(wide, kernel=1, act=act, name="expand")(y, train=train)
        if row.kernel:
            c = y.shape[-1]
            depthwise = conv(c, row.kernel, stride, groups=c, act=act, name="depthwise")
            y = depthwise(y, train=train)
        y = conv(row.features, kernel=1, act=None, name="project")(y, train=train)
        return x + y if x.shape == y.shape else y


class MobileNet(nn.Module):
    """Pictures float [B, H, W, C] -> logits float32 [B, num_classes], or pooled features [B, F].

    Attributes:
        rows: the layers before the mean over the picture.
        num_classes: None returns the features that the classifier would read.
        head_features: width of a 1x1 convolution, BatchNorm and activation after the mean; None for
            no such layer.
        relu6: the activation is min(relu, 6) instead of relu.
        padding: "same", or "torch" for weights trained there.
        dtype: of the computation; parameters, statistics and what is returned are float32.
    """

    rows: tuple[Row, ...]
    num_classes: int | None = None
    head_features: int | None = None
    relu6: bool = False
    padding: Padding = "same"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        shared = {"padding": self.padding, "dtype": self.dtype}
        conv = functools.partial(ConvBN, act=nn.relu6 if self.relu6 else nn.relu, **shared)
        for i, row in enumerate(self.rows):
            if isinstance(row, Conv):
                x = conv(row.features, row.kernel, row.stride, name=f"row{i}")(x, train=train)
                continue
            for j in range(row.repeats):
                one = dataclasses.replace(row, stride=1 if j else row.stride, repeats=1)
                block = InvertedResidual(one, self.relu6, **shared, name=f"row{i}_block{j}")
                x = block(x, train=train)
        x = jnp.mean(x, axis=(1, 2), keepdims=self.head_features is not None)
        if self.head_features is not None:
            x = conv(self.head_features, kernel=1, name="pooled")(x, train=train)
            x = x.reshape(x.shape[0], -1)
        x = x.astype(jnp.float32)
        return x if self.num_classes is None else nn.Dense(self.num_classes, name="head")(x)


def mobilenet_v2(
    num_classes: int | None = None, *, width: float = 1.0, small_inputs: int = 0, **fields: Any
) -> MobileNet:
    """MobileNetV2 (Sandler et al. 2018); 3.5 M parameters with 1000 classes at width 1.

    Args:
        num_classes: None for pooled features.
        width: multiplier of the channels; the last 1280 grow with it but do not shrink.
        small_inputs: how many of the first strides of 2 are 1 instead; 1 or 2 for 28 to 32 px.
        **fields: further fields of ``MobileNet``.

    Raises:
        ValueError: fewer strides than ``small_inputs``.
    """
    *body, last = scale(MOBILENET_V2, width)
    rows = (*body, dataclasses.replace(last, features=max(1280, last.features)))
    return MobileNet(keep_resolution(rows, small_inputs), num_classes, **{"relu6": True, **fields})


def mobilenet_v4_conv_s(
    num_classes: int | None = None, *, width: float = 1.0, small_inputs: int = 0, **fields: Any
) -> MobileNet:
    """MobileNetV4-Conv-S (Qin et al. 2024); 3.8 M parameters with 1000 classes at width 1.

    Args:
        num_classes: None for pooled features.
        width: multiplier of the channels, the 1280 after the mean excepted (``head_features``).
        small_inputs: how many of the first strides of 2 are 1 instead; 1 or 2 for 28 to 32 px.
        **fields: further fields of ``MobileNet``.

    Raises:
        ValueError: fewer strides than ``small_inputs``.
    """
    rows = keep_resolution(scale(MOBILENET_V4_CONV_S, width), small_inputs)
    return MobileNet(rows, num_classes, **{"head_features": 1280, **fields})


def divisible(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and at least 0.9 of ``channels``."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def scale(rows: tuple[Row, ...], width: float) -> tuple[Row, ...]:
    """The table with every row's channels multiplied, to divisible numbers.

    Raises:
        ValueError: the multiplier is not positive and finite.
    """
    if not 0 < width < math.inf:
        raise ValueError(f"MobileNet: width={width}, expected a positive, finite multiplier")
    return tuple(dataclasses.replace(row, features=divisible(row.features * width)) for row in rows)


def keep_resolution(rows: tuple[Row, ...], count: int) -> tuple[Row, ...]:
    """The table with the first ``count`` strides set to 1.

    Raises:
        ValueError: there are not as many, or ``count`` is negative.
    """
    strided = [i for i, row in enumerate(rows) if row.stride > 1]
    if not 0 <= count <= len(strided):
        raise ValueError(
            f"MobileNet: small_inputs={count}, expected 0 to {len(strided)}, the number of rows "
            "with a stride"
        )
    return tuple(
        dataclasses.replace(row, stride=1) if i in strided[:count] else row
        for i, row in enumerate(rows)
    )
