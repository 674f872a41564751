"""Residual nets (He et al. 2016): one module, driven by a stem and a table of stages.

The builders fill the table: the CIFAR and the ImageNet family, and small nets for small pictures.
"""

import dataclasses
import functools
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxmini.models.choice import choose
from jaxmini.models.conv_bn import ConvBN, Padding, borders
from jaxmini.state import Array

StemName: TypeAlias = Literal["imagenet", "cifar"]
Shortcut: TypeAlias = Literal["A", "B"]


@dataclasses.dataclass(frozen=True)
class Stem:
    """The first convolution, and the 3x3 max-pool of stride 2 that may follow it."""

    width: int
    kernel: int = 3
    stride: int = 1
    pool: bool = False


@dataclasses.dataclass(frozen=True)
class Blocks:
    """One row of the table: ``count`` residual blocks of a width; the stride is the first one's."""

    width: int
    count: int
    stride: int = 1


class Residual(nn.Module):
    """``relu(branch(x) + shortcut(x))``, [B, H, W, C] -> [B, ceil(H/s), ceil(W/s), C'].

    The basic branch is two 3x3 convolutions; the bottleneck is 1x1, 3x3 with the stride (v1.5), and
    1x1 to four times the width.

    Raises:
        ValueError: ``shortcut`` is neither "A" nor "B".
    """

    width: int
    stride: int = 1
    bottleneck: bool = False
    shortcut: Shortcut = "B"
    zero_gamma: bool = True
    padding: Padding = "same"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        conv = functools.partial(ConvBN, padding=self.padding, dtype=self.dtype)
        last = functools.partial(conv, act=None, zero_gamma=self.zero_gamma)
        if self.bottleneck:
            features = 4 * self.width
            y = conv(self.width, kernel=1, name="conv0")(x, train=train)
            y = conv(self.width, stride=self.stride, name="conv1")(y, train=train)
            y = last(features, kernel=1, name="conv2")(y, train=train)
        else:
            features = self.width
            y = conv(features, stride=self.stride, name="conv0")(x, train=train)
            y = last(features, name="conv1")(y, train=train)
        projected = choose("ResNet: shortcut", self.shortcut, {"A": False, "B": True})
        if self.stride != 1 or x.shape[-1] != features:
            if projected:
                project = conv(features, kernel=1, stride=self.stride, act=None, name="shortcut")
                x = project(x, train=train)
            else:
                x = subsample(x, self.stride, features)
        return nn.relu(y + x)


class ResNet(nn.Module):
    """Pictures float [B, H, W, C] -> logits float32 [B, num_classes], or pooled features [B, F].

    Attributes:
        stem: the first convolution.
        stages: one row each.
        num_classes: None returns the features that the classifier would read.
        bottleneck: blocks of three convolutions instead of two.
        shortcut: where a block changes the shape, "A" drops pixels and pads channels with zeros,
            "B" is a 1x1 convolution and BatchNorm.
        zero_gamma: the last BatchNorm of every block starts at 0, and the block as its shortcut.
        padding: "same", or "torch" for weights trained there.
        dtype: of the computation; parameters, statistics and what is returned are float32.
    """

    stem: Stem
    stages: tuple[Blocks, ...]
    num_classes: int | None = None
    bottleneck: bool = False
    shortcut: Shortcut = "B"
    zero_gamma: bool = True
    padding: Padding = "same"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        x = self._stem(x, train)
        for i, row in enumerate(self.stages):
            for j in range(row.count):
                block = Residual(
                    width=row.width,
                    stride=1 if j else row.stride,
                    bottleneck=self.bottleneck,
                    shortcut=self.shortcut,
                    zero_gamma=self.zero_gamma,
                    padding=self.padding,
                    dtype=self.dtype,
                    name=f"stage{i}_block{j}",
                )
                x = block(x, train=train)
        x = jnp.mean(x, axis=(1, 2)).astype(jnp.float32)
        return x if self.num_classes is None else nn.Dense(self.num_classes, name="head")(x)

    def _stem(self, x: Array, train: bool) -> Array:
        stem = self.stem
        conv = ConvBN(
            stem.width,
            kernel=stem.kernel,
            stride=stem.stride,
            padding=self.padding,
            dtype=self.dtype,
            name="stem",
        )
        x = conv(x, train=train)
        return nn.max_pool(x, (3, 3), (2, 2), borders(3, self.padding)) if stem.pool else x


def subsample(x: Array, stride: int, features: int) -> Array:
    """Every ``stride``-th pixel, and zero channels on both sides up to ``features`` (shortcut "A").

    Raises:
        ValueError: channels would have to go, or an odd number of them to come.
    """
    more = features - x.shape[-1]
    if more < 0 or more % 2:
        raise ValueError(
            f"ResNet: shortcut 'A' pads as many channels on one side as on the other, which cannot "
            f"make {features} of {x.shape[-1]}; use shortcut 'B' or other widths"
        )
    none, sides = (0, 0, 0), (more // 2, more // 2, 0)
    return lax.pad(x[:, ::stride, ::stride], jnp.zeros((), x.dtype), (none, none, none, sides))


STEMS = {
    "imagenet": functools.partial(Stem, kernel=7, stride=2, pool=True),
    "cifar": Stem,
}


def resnet18(
    num_classes: int | None = None, *, width: int = 64, stem: StemName = "imagenet", **fields: Any
) -> ResNet:
    """ResNet-18; 11.7 M parameters with 1000 classes.

    Args:
        num_classes: None for pooled features.
        width: of the stem and the first stage.
        stem: "imagenet" (7x7 of stride 2, max-pool), or "cifar" (3x3 of stride 1).
        **fields: further fields of ``ResNet``.

    Raises:
        ValueError: an unknown stem.
    """
    return _four_stages((2, 2, 2, 2), num_classes, width, stem, **fields)


def resnet34(
    num_classes: int | None = None, *, width: int = 64, stem: StemName = "imagenet", **fields: Any
) -> ResNet:
    """ResNet-34; 21.8 M parameters with 1000 classes. Arguments as ``resnet18``."""
    return _four_stages((3, 4, 6, 3), num_classes, width, stem, **fields)


def resnet50(
    num_classes: int | None = None, *, width: int = 64, stem: StemName = "imagenet", **fields: Any
) -> ResNet:
    """ResNet-50 v1.5; 25.6 M parameters with 1000 classes. Arguments as ``resnet18``."""
    return _four_stages((3, 4, 6, 3), num_classes, width, stem, bottleneck=True, **fields)


def resnet_cifar(depth: int, num_classes: int | None = None, **fields: Any) -> ResNet:
    """The CIFAR family of 8, 14, 20, 32, 44, 56, 110 or any 6n + 2 layers (He et al. 2016, 4.2).

    The paper's shortcut is "A"; the default "B" is that of the distillation papers.

    Args:
        depth: number of layers.
        num_classes: None for pooled features [B, 64].
        **fields: further fields of ``ResNet``.

    Raises:
        ValueError: ``depth`` is not 6n + 2.
    """
    return _three_stages(depth, 16, (16, 32, 64), num_classes, **fields)


def resnet8x4(num_classes: int | None = None, **fields: Any) -> ResNet:
    """ResNet-8 four times as wide, a usual student (Tian et al. 2020); 1.2 M parameters."""
    return _three_stages(8, 32, (64, 128, 256), num_classes, **fields)


def resnet32x4(num_classes: int | None = None, **fields: Any) -> ResNet:
    """ResNet-32 four times as wide, a usual teacher (Tian et al. 2020); 7.4 M parameters."""
    return _three_stages(32, 32, (64, 128, 256), num_classes, **fields)


def small_resnet(
    num_classes: int | None = None,
    *,
    widths: tuple[int, ...] = (16, 32, 48),
    blocks: int = 1,
    strides: tuple[int, ...] | None = None,
    stem_width: int = 16,
    stem_stride: int = 2,
    **fields: Any,
) -> ResNet:
    """A net for pictures of 8 to 32 pixels, where a stride in the stem is the cheapest saving.

    Args:
        num_classes: None for pooled features.
        widths: one a stage.
        blocks: in every stage.
        strides: one a stage; default 1 and then 2.
        stem_width: channels of the first convolution, 3x3.
        stem_stride: its stride.
        **fields: further fields of ``ResNet``.

    Raises:
        ValueError: not as many strides as widths.
    """
    strides = (1, *[2] * (len(widths) - 1)) if strides is None else strides
    if len(strides) != len(widths):
        raise ValueError(
            f"small_resnet: strides {strides} and widths {widths} must have one entry a stage each"
        )
    stages = tuple(Blocks(w, blocks, s) for w, s in zip(widths, strides, strict=True))
    return ResNet(Stem(stem_width, stride=stem_stride), stages, num_classes, **fields)


def _four_stages(
    depths: tuple[int, ...], num_classes: int | None, width: int, stem: StemName, **fields: Any
) -> ResNet:
    first = choose("resnet: stem", stem, STEMS)(width)
    stages = tuple(Blocks(width << i, n, 2 if i else 1) for i, n in enumerate(depths))
    return ResNet(first, stages, num_classes, **fields)


def _three_stages(
    depth: int, stem: int, widths: tuple[int, ...], num_classes: int | None, **fields: Any
) -> ResNet:
    count, rest = divmod(depth - 2, 6)
    if count < 1 or rest:
        near = 6 * max(1, round((depth - 2) / 6)) + 2
        raise ValueError(
            f"resnet_cifar: depth {depth} is not 6n + 2 (8, 14, 20, 32, 44, 56, 110); "
            f"did you mean {near}?"
        )
    stages = tuple(Blocks(width, count, 2 if i else 1) for i, width in enumerate(widths))
    return ResNet(Stem(stem), stages, num_classes, **fields)
