"""Torch nets: PyTorch's side of ``benchmarks.cpu`` and ``benchmarks.convolutions``.

A net is read off the linen module and has its names for the layers, so that weights can be carried over.
"""

import dataclasses
import functools
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping

import flax.linen
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jaxmini.models.mobilenet import Conv, Inverted, MobileNet, divisible
from jaxmini.models.resnet import ResNet
from jaxmini.models.vit import ViT as LinenViT

LAYOUTS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
WEIGHT_DECAY = 5e-4

Way = Callable[[], Tensor]


class ConvBN(nn.Sequential):
    """A convolution, BatchNorm and, where there is one, the activation; borders of kernel // 2."""

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        act: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        side = kernel // 2
        conv = nn.Conv2d(inputs, features, kernel, stride, side, groups=groups, bias=False)
        layers = OrderedDict(conv=conv, bn=nn.BatchNorm2d(features))
        if act is not None:
            layers["act"] = act(inplace=True)
        super().__init__(layers)


class InvertedResidual(nn.Sequential):
    """MobileNet's block, of the layers that its row asks for."""

    def __init__(self, inputs: int, row: Inverted, act: type[nn.Module]) -> None:
        start_stride, stride = (1, row.stride) if row.kernel else (row.stride, 1)
        wide = inputs if row.expand == 1 else divisible(row.expand * inputs)
        layers = OrderedDict()
        if row.start:
            layers["start"] = ConvBN(
                inputs, inputs, row.start, start_stride, groups=inputs, act=None
            )
        if row.expand != 1:
            layers["expand"] = ConvBN(inputs, wide, 1, act=act)
        if row.kernel:
            layers["depthwise"] = ConvBN(wide, wide, row.kernel, stride, groups=wide, act=act)
        layers["project"] = ConvBN(wide, row.features, 1, act=None)
        super().__init__(layers)
        self.is_residual = row.stride == 1 and inputs == row.features

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return x + y if self.is_residual else y


class Residual(nn.Module):
    """ResNet's block of two 3x3 convolutions."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv0 = ConvBN(inputs, width, stride=stride)
        self.conv1 = ConvBN(width, width, act=None)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != width:
            self.shortcut = ConvBN(inputs, width, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv1(self.conv0(x)) + self.shortcut(x), inplace=True)


class EncoderBlock(nn.Module):
    """A transformer's block; queries, keys and values are one product, as is usual there."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm0 = nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width)})
        self.attention["out"] = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.mlp0 = nn.Linear(width, mlp_width)
        self.mlp1 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.attention["qkv"](self.norm0(x)).unflatten(-1, (3, self.heads, -1))
        seen = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.attention["out"](seen.transpose(1, 2).flatten(2))
        return x + self.mlp1(F.gelu(self.mlp0(self.norm1(x)), approximate="tanh"))


class ViT(nn.Module):
    """A vision transformer for square pictures of three channels."""

    def __init__(self, net: LinenViT, size: int) -> None:
        super().__init__()
        tokens = 1 + (size // net.patch) ** 2
        self.embed = nn.Conv2d(3, net.width, net.patch, net.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, net.width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, net.width))
        blocks = (EncoderBlock(net.width, net.heads, net.mlp_width) for _ in range(net.layers))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(net.width, eps=1e-6)
        self.head = nn.Linear(net.width, net.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x)[:, 0]))


def cores() -> int:
    """How many this process may use, which is how many threads XLA takes."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def on_threads(ways: Mapping[str, Way], count: int) -> dict[str, Way]:
    """Each way on that many threads, which its name says."""
    said = f"{count} thread{'s' * (count > 1)}"
    return {
        f"{name}, {said}": functools.partial(_on_threads, way, count) for name, way in ways.items()
    }


def like(net: flax.linen.Module, size: int) -> nn.Module:
    """The net of a linen module, for pictures of that size.

    Raises:
        ValueError: jaxmini has such a net, this file has not.
    """
    if isinstance(net, MobileNet):
        return _mobile_net(net)
    if isinstance(net, ResNet) and not (net.bottleneck or net.stem.pool):
        return _res_net(net)
    if isinstance(net, LinenViT):
        return ViT(net, size)
    raise ValueError(f"torch_nets: no net like {net!r}; write it here")


def trainings(
    net: flax.linen.Module, batch: dict[str, np.ndarray], rate: float, *, size: int
) -> dict[str, Way]:
    """An update a call, by memory layout; each trains a net of its own on the one batch.

    Args:
        net: what is trained, a net like it.
        batch: ``image`` float32 NHWC and ``label``.
        rate: of learning.
        size: numbers that training moves in ``net``.

    Raises:
        ValueError: the net here has not as many.
    """
    ways = {}
    for layout, order in LAYOUTS.items():
        built = like(net, batch["image"].shape[1]).to(memory_format=order)
        count = sum(parameter.numel() for parameter in built.parameters())
        if count != size:
            raise ValueError(f"torch_nets: {count} parameters instead of {size} like {net!r}")
        images = _nchw(batch["image"]).contiguous(memory_format=order)
        labels = torch.from_numpy(batch["label"]).long()
        ways[layout] = functools.partial(_update, built, _optimizer(built, rate), images, labels)
    return ways


def inferences(net: flax.linen.Module, images: np.ndarray) -> dict[str, Way]:
    """A forward pass a call on one thread, by memory layout; the net's weights are its initial ones."""
    ways = {}
    for layout, order in LAYOUTS.items():
        built = like(net, images.shape[1]).to(memory_format=order).eval()
        ways[layout] = functools.partial(
            _infer, built, _nchw(images).contiguous(memory_format=order)
        )
    return ways


def convolutions(
    x: np.ndarray, w: np.ndarray, g: np.ndarray, stride: int, padding: int, direction: str
) -> dict[str, Way]:
    """One direction of a convolution, by memory layout.

    Args:
        x, w, g: pictures NHWC, kernel HWIO, gradient of the result NHWC.
        stride: of the convolution.
        padding: on every side.
        direction: "forward", "filter" or "input".
    """
    groups = x.shape[3] // w.shape[2]
    geometry = [stride] * 2, [padding] * 2, [1] * 2
    gradients = [direction == "input", direction == "filter", False]

    def way(x: Tensor, w: Tensor, g: Tensor) -> Way:
        if direction == "forward":
            return functools.partial(torch.conv2d, x, w, None, *geometry, groups)
        backward = torch.ops.aten.convolution_backward
        return functools.partial(
            backward, g, x, w, None, *geometry, False, [0] * 2, groups, gradients
        )

    kernel = torch.from_numpy(w).permute(3, 2, 0, 1)
    operands = _nchw(x), kernel, _nchw(g)
    return {
        layout: way(*(operand.contiguous(memory_format=order) for operand in operands))
        for layout, order in LAYOUTS.items()
    }


def _mobile_net(net: MobileNet) -> nn.Sequential:
    act = nn.ReLU6 if net.relu6 else nn.ReLU
    layers, channels = OrderedDict(), 3
    for i, row in enumerate(net.rows):
        if isinstance(row, Conv):
            layers[f"row{i}"] = ConvBN(channels, row.features, row.kernel, row.stride, act=act)
            channels = row.features
            continue
        for j in range(row.repeats):
            one = row if j == 0 else dataclasses.replace(row, stride=1)
            layers[f"row{i}_block{j}"] = InvertedResidual(channels, one, act)
            channels = row.features
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    if net.head_features is not None:
        layers["pooled"] = ConvBN(channels, net.head_features, 1, act=act)
        channels = net.head_features
    layers["flat"] = nn.Flatten()
    layers["head"] = nn.Linear(channels, net.num_classes)
    return nn.Sequential(layers)


def _res_net(net: ResNet) -> nn.Sequential:
    channels = net.stem.width
    layers = OrderedDict(stem=ConvBN(3, channels, net.stem.kernel, net.stem.stride))
    for i, row in enumerate(net.stages):
        for j in range(row.count):
            layers[f"stage{i}_block{j}"] = Residual(channels, row.width, 1 if j else row.stride)
            channels = row.width
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flat"] = nn.Flatten()
    layers["head"] = nn.Linear(channels, net.num_classes)
    return nn.Sequential(layers)


def _optimizer(net: nn.Module, rate: float) -> torch.optim.SGD:
    """``steps.sgd``: Nesterov's momentum, and weight decay of the kernels alone."""
    kernels, others = (
        [p for p in net.parameters() if (p.ndim > 1) is is_kernel] for is_kernel in (True, False)
    )
    groups = [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others}]
    return torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True, fused=True)


def _on_threads(way: Way, count: int) -> Tensor:
    torch.set_num_threads(count)
    return way()


def _infer(net: nn.Module, images: Tensor) -> Tensor:
    torch.set_num_threads(1)
    with torch.inference_mode():
        return net(images)


def _update(net: nn.Module, optimizer: torch.optim.SGD, images: Tensor, labels: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(net(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _nchw(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
