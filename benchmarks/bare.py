"""Bare: the mathematics of four of jaxmini's steps written out by hand in plain JAX, flax and optax.

What someone would write who needs this one step and no other, without a choice: each example's view is keyed
by its epoch and id, and the step returns what a training logs. ``jit`` and ``pmap`` place it.
"""

import functools
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxmini.data import View
from jaxmini.state import Array, PyTree

# (params, everything else that changes, optimizer state, key), frozen, batch -> the same, metrics
State = tuple[PyTree, PyTree, PyTree, Array]
Metrics = dict[str, Array]
Step = Callable[[State, PyTree, dict], tuple[State, Metrics]]
LossFn = Callable[[PyTree, PyTree, PyTree, Array, dict], tuple[Array, tuple[PyTree, Metrics]]]


class Headed(nn.Module):
    """A net and what stands on it."""

    body: nn.Module
    head: nn.Module

    def __call__(self, x: Array, *, train: bool) -> Array:
        return self.head(self.body(x, train=train), train=train)


class Pictures:
    """A view of every picture of a batch, normalised."""

    def __init__(self, view: View, mean: float, std: float) -> None:
        self.view, self.mean, self.std = view, mean, std

    def __call__(self, key: Array, batch: dict, number: int = 0) -> Array:
        def one(image: Array, example: Array, epoch: Array) -> Array:
            own = jax.random.fold_in(jax.random.fold_in(stream, epoch), example)
            return self.view(own, image.astype(jnp.float32) / 255)

        stream = jax.random.fold_in(key, number)
        image = jax.vmap(one)(batch["image"], batch["id"], batch["epoch"])
        return (image - self.mean) / self.std


def supervised(net: nn.Module, pictures: Pictures, optimizer: optax.GradientTransformation) -> Step:
    """Cross-entropy with labels."""

    def loss_fn(
        params: PyTree, stats: PyTree, frozen: PyTree, key: Array, batch: dict
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        logits, stats = _train(net, params, stats, pictures(key, batch))
        log_probs = jax.nn.log_softmax(logits)
        loss = -jnp.mean(jnp.take_along_axis(log_probs, batch["label"][:, None], axis=1))
        right = jnp.argmax(logits, axis=1) == batch["label"]
        return loss, (stats, {"accuracy": _share(right)})

    return _step(loss_fn, optimizer)


def contrastive(
    net: nn.Module, pictures: Pictures, optimizer: optax.GradientTransformation, temperature: float
) -> Step:
    """NT-Xent of two views."""

    def loss_fn(
        params: PyTree, stats: PyTree, frozen: PyTree, key: Array, batch: dict
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        views = [pictures(key, batch, number) for number in range(2)]
        z, stats = _train(net, params, stats, jnp.concatenate(views))
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        similarity = z @ z.T / temperature
        similarity = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, similarity)
        positive = jnp.roll(jnp.arange(len(z)), len(z) // 2)
        log_probs = jax.nn.log_softmax(similarity)
        loss = -jnp.mean(jnp.take_along_axis(log_probs, positive[:, None], axis=1))
        nearest = jnp.argmax(similarity, axis=1) == positive
        return loss, (stats, {"accuracy": _share(nearest)})

    return _step(loss_fn, optimizer)


def distill(
    net: nn.Module,
    teacher: nn.Module,
    pictures: Pictures,
    optimizer: optax.GradientTransformation,
    temperature: float,
) -> Step:
    """Tempered KL divergence from a teacher that sees the same view."""

    def loss_fn(
        params: PyTree, stats: PyTree, frozen: PyTree, key: Array, batch: dict
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        x = pictures(key, batch)
        logits, stats = _train(net, params, stats, x)
        target = teacher.apply(frozen, x, train=False)
        return _kl(logits, target, temperature), (stats, _agreement(logits, target))

    return _step(loss_fn, optimizer)


def distill_int8(
    stats: PyTree,
    strides: tuple[int, ...],
    teacher: nn.Module,
    pictures: Pictures,
    optimizer: optax.GradientTransformation,
    temperature: float,
) -> Step:
    """Distillation of a small residual net with every rounding of its 8-bit file in the forward pass.

    Args:
        stats: the student's BatchNorm statistics, which stay as they are and are folded.
        strides: of its stem and its blocks.
    """

    def loss_fn(
        params: PyTree, ranges: PyTree, frozen: PyTree, key: Array, batch: dict
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        x = pictures(key, batch)
        pixel = 1 / (255 * pictures.std), jnp.round(255 * pictures.mean) - 128
        logits, ranges = resnet_int8(params, stats, strides, ranges, x, pixel)
        target = teacher.apply(frozen, x, train=False)
        return _kl(logits, target, temperature), (ranges, _agreement(logits, target))

    return _step(loss_fn, optimizer)


def resnet_int8(
    params: PyTree,
    stats: PyTree,
    strides: tuple[int, ...],
    ranges: tuple[dict[str, Array], ...],
    x: Array,
    grid: tuple[Array, Array],
) -> tuple[Array, tuple[dict[str, Array], ...]]:
    """Logits of a small residual net rounded as its integers, and the ranges moved to this batch's.

    Args:
        ranges: of every tensor that is rounded, in the order in which they are computed.
        grid: scale and zero point of the input.
    """
    known, seen = iter(ranges), []

    def conv(x: Array, grid: tuple, name: tuple[str, ...], stride: int, relu: bool) -> tuple:
        kernel, bias = _folded(_at(params, name), _at(stats, name))
        y = _rounded_conv(x, grid[0], kernel, bias, stride)
        return _rounded(jax.nn.relu(y) if relu else y, known, seen)

    x, grid = conv(_fake_quant(x, *grid), grid, ("stem",), strides[0], True)
    for number, stride in enumerate(strides[1:]):
        block = f"stage{number}_block0"
        y, inner = conv(x, grid, (block, "conv0"), stride, True)
        y, _ = conv(y, inner, (block, "conv1"), 1, False)
        if "shortcut" in params[block]:
            x, _ = conv(x, grid, (block, "shortcut"), stride, False)
        x, grid = _rounded(jax.nn.relu(y + x), known, seen)
    x, grid = _rounded(jnp.mean(x, axis=(1, 2)), known, seen)
    head = params["head"]
    scale = _kernel_scale(head["kernel"])
    kernel = _straight(head["kernel"], scale)
    bias = _straight(head["bias"], grid[0] * scale)
    x, _ = _rounded(x @ kernel + bias.reshape(1, -1), known, seen)
    return x, tuple(seen)


def _step(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> Step:
    def step(
        state: State, frozen: PyTree, batch: dict, axis: str | None = None
    ) -> tuple[State, Metrics]:
        params, rest, opt_state, key = state
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (rest, metrics)), grads = gradient(params, rest, frozen, key, batch)
        metrics = {"loss": loss, **metrics}
        if axis is not None:
            metrics, rest, grads = jax.lax.pmean((metrics, rest, grads), axis)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), rest, opt_state, key), metrics

    return step


def jit(step: Step) -> Step:
    """On one device, compiled."""
    return jax.jit(step, donate_argnums=0)


def pmap(step: Step) -> Step:
    """On one device, as a program of several that hold the same state and a part of the batch each."""
    mapped = jax.pmap(
        functools.partial(step, axis="batch"),
        "batch",
        in_axes=(None, None, 0),
        out_axes=None,
        devices=jax.devices()[:1],
        donate_argnums=0,
    )
    return lambda state, frozen, batch: mapped(
        state, frozen, {name: value[None] for name, value in batch.items()}
    )


def _train(net: nn.Module, params: PyTree, stats: PyTree, x: Array) -> tuple[Array, PyTree]:
    variables = {"params": params, "batch_stats": stats}
    outputs, updates = net.apply(variables, x, train=True, mutable=["batch_stats"])
    return outputs, updates["batch_stats"]


def _kl(student: Array, teacher: Array, temperature: float) -> Array:
    log_q = jax.nn.log_softmax(student / temperature)
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def _agreement(student: Array, teacher: Array) -> Metrics:
    return {"agreement": _share(jnp.argmax(student, axis=1) == jnp.argmax(teacher, axis=1))}


def _share(right: Array) -> Array:
    return jnp.mean(right.astype(jnp.float32))


def _at(tree: PyTree, path: tuple[str, ...]) -> PyTree:
    for name in path:
        tree = tree[name]
    return tree


def _folded(layer: PyTree, stats: PyTree) -> tuple[Array, Array]:
    """Kernel and bias of a convolution with its BatchNorm in it."""
    factor = layer["bn"]["scale"] / jnp.sqrt(stats["bn"]["var"] + 1e-5)
    kernel = layer["conv"]["kernel"] * factor.reshape(1, 1, 1, -1)
    return kernel, layer["bn"]["bias"] - stats["bn"]["mean"] * factor


def _rounded_conv(x: Array, scale_in: Array, kernel: Array, bias: Array, stride: int) -> Array:
    scale = _kernel_scale(kernel)
    y = jax.lax.conv_general_dilated(
        x,
        _straight(kernel, scale),
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + _straight(bias, scale_in * scale).reshape(1, 1, 1, -1)


def _kernel_scale(kernel: Array) -> Array:
    largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
    return jax.lax.stop_gradient(jnp.maximum(largest, 1e-6) / 127)


def _straight(values: Array, scale: Array) -> Array:
    scale = scale.reshape((1,) * (values.ndim - 1) + (-1,))
    return values + jax.lax.stop_gradient(jnp.round(values / scale) * scale - values)


def _rounded(values: Array, known: Iterator[dict], seen: list[dict]) -> tuple[Array, tuple]:
    """Values on the grid of the next range, and that grid; the range moves a hundredth of the way."""
    old, real = next(known), jax.lax.stop_gradient(values)
    low, high = jnp.minimum(jnp.min(real), 0.0), jnp.maximum(jnp.max(real), 0.0)
    seen.append({"low": 0.99 * old["low"] + 0.01 * low, "high": 0.99 * old["high"] + 0.01 * high})
    scale = jnp.maximum(old["high"] - old["low"], 1e-8) / 255
    grid = scale, jnp.clip(jnp.round(-128 - old["low"] / scale), -128, 127)
    return _fake_quant(values, *grid), grid


def _fake_quant(values: Array, scale: Array, zero_point: Array) -> Array:
    inside = jnp.clip(values, (-128 - zero_point) * scale, (127 - zero_point) * scale)
    return inside + jax.lax.stop_gradient(jnp.round(inside / scale) * scale - inside)
