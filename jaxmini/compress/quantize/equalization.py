"""Equalization: channels of neighbouring layers rescaled so that their kernels fill one grid alike.

Rectifiers pass positive factors: what divides a layer's output channel may multiply the next layer's input
channel, and the network computes what it did (Nagel et al., 2019, section 4.1).
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.leaves import Leaves, UnreachableError, replaced
from jaxmini.compress.quantize.pictures import checked_batches
from jaxmini.compress.quantize.plan import AveragePool, Group, Mean, Move, Plan, Rectifier, Weighted
from jaxmini.compress.quantize.stored import floats_of
from jaxmini.compress.quantize.transform import calibrate, make_plan
from jaxmini.model import Model, Variables
from jaxmini.near_miss import did_you_mean
from jaxmini.state import Array

MOST_ROUNDS = 200
NEAR_ONE = 1e-4  # a round whose factors are all this near to 1 is the last


class Pair(NamedTuple):
    """Two layers, the second the only reader of the first; the leaves that take the factors.

    Attributes:
        first, second: the groups.
        divided: leaves of the first, a number (or kernel column) an output channel.
        multiplied: the kernel of the second.
    """

    first: Weighted
    second: Weighted
    divided: tuple[int, ...]
    multiplied: int


@dataclasses.dataclass(frozen=True)
class Equalization:
    """What of a plan can be equalized.

    Attributes:
        pairs: names of the layers that are equalized with the one they feed.
        left_out: why another layer's channels cannot be rescaled, by its name.
    """

    pairs: tuple[tuple[str, str], ...]
    left_out: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.pairs)} pairs are equalized, {len(self.left_out)} layers left out"]
        lines += [f"  {first} with {second}" for first, second in self.pairs]
        lines += [f"  left out: {name}, {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)


def equalizable(plan: Plan) -> Equalization:
    """Which layers ``equalize`` rescales, and why not the others; the plan's output is never one."""
    pairs, left_out = _pairs(plan)
    return Equalization(tuple((p.first.name, p.second.name) for p in pairs), left_out)


def rescale(plan: Plan, variables: Variables, factors: Mapping[str, np.ndarray]) -> Variables:
    """Variables with other channels of the same network: a layer's divided, its reader's multiplied.

    Args:
        plan: of the network.
        variables: of the float model or of a quantized one; float leaves alone are in the result.
        factors: positive, one an output channel [C], by the name of its layer; each is the first of a pair
            that ``equalizable(plan)`` tells.

    Raises:
        ValueError: no pair begins with a layer of that name (lists those that do), or factors are not
            positive, finite and one a channel.
    """
    pairs, floats = {pair.first.name: pair for pair in _pairs(plan)[0]}, floats_of(variables)
    hooks = Float(plan, floats)
    for name, factor in factors.items():
        if name not in pairs:
            there = ", ".join(pairs) or "there is no pair"
            raise ValueError(
                f"rescale: no pair begins with {name!r}: {there}{did_you_mean(name, pairs)}"
            )
        channels = hooks.weight(pairs[name].first)[0].shape[-1]
        is_positive = np.all(np.isfinite(factor)) and np.all(np.greater(factor, 0))
        if np.shape(factor) != (channels,) or not is_positive:
            raise ValueError(
                f"rescale: factors of {name} are {factor}, expected {channels} positive numbers"
            )
    return _rescaled([pairs[name] for name in factors], floats, factors)


@dataclasses.dataclass(frozen=True)
class equalize:
    """Cross-layer equalization: the same network, with kernels that per-tensor grids can hold.

    Every pair of layers of which the first feeds the second alone, through nothing or a rectifier (and
    means, pools, pads), shares out its range: with ``r1`` and ``r2`` the largest weights of a channel, both
    become ``sqrt(r1 r2)``. Pairs overlap (depthwise layers are in two), so this is repeated until
    nothing moves. Layers that cannot take part stay as they are: ``equalizable(plan)`` tells which and why.

    Called with a model, its variables and batches of pictures, it returns the variables; the float network
    computes what it did, its BatchNorm statistics stay true, and the ranges are calibrated anew, as every
    range between two layers has changed. The pictures are needed for that alone.

    Raises:
        ValueError: when called, the model is not quantized, there are no pictures or they are not finite,
            or no layer can be equalized (says why, layer by layer).

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019),
    equations 9 to 11.
    """

    def __call__(self, model: Model, variables: Variables, batches: Iterable[Array]) -> Variables:
        batches = checked_batches("equalize", model, batches)
        plan = make_plan(model, variables, batches[0])
        pairs, left_out = _pairs(plan)
        if not pairs:
            why = "; ".join(dict.fromkeys(left_out.values())) or "there is one layer"
            raise ValueError(f"equalize: no layer can be equalized with the one it feeds: {why}")
        floats = floats_of(variables)
        scaled = _rescaled(pairs, floats, _shared(plan, pairs, floats))
        return calibrate(model, scaled, batches)


def _pairs(plan: Plan) -> tuple[list[Pair], dict[str, str]]:
    leaves, pairs, left_out = Leaves(plan), [], {}
    for group in plan.weighted:
        if plan.output in group.outputs:
            continue
        try:
            second = _next(plan, group)
            pairs.append(Pair(group, second, leaves.scalings(group), leaves.kernel(second)))
        except UnreachableError as error:
            left_out[group.name] = str(error)
    return pairs, left_out


def _next(plan: Plan, first: Weighted) -> Weighted:
    """The layer that alone reads another, through what passes a positive factor of a channel."""
    group: Group = first
    while True:
        clamp = getattr(group, "clamp", None)
        if clamp is not None and np.isfinite(clamp.high):
            raise UnreachableError(f"no factor passes {clamp}: build the model with relu")
        readers = [g for g in plan.groups if set(group.outputs) & set(g.inputs)]
        if len(readers) != 1 or plan.output in group.outputs:
            names = ", ".join(reader.name for reader in readers) or "the output"
            raise UnreachableError(f"what it leaves is read by {names}")
        (group,) = readers
        if isinstance(group, Weighted):
            _check_second(plan, group)
            return group
        if not _keeps_channels(plan, group):
            raise UnreachableError(f"it feeds {group.name}, which has no kernel")


def _check_second(plan: Plan, group: Weighted) -> None:
    if group.kernel is None:
        raise UnreachableError(f"it feeds {group.name}, which has no kernel")
    if group.op.name == "dot_general":
        (lhs, _), _ = group.op.params["dimension_numbers"]
        if len(lhs) != 1:
            raise UnreachableError(f"it feeds {group.name}, which contracts several axes")


def _keeps_channels(plan: Plan, group: Group) -> bool:
    """Whether a group does the same with each channel of the last axis, and to a factor of it nothing."""
    if len(group.inputs) != 1 or len(group.outputs) != 1:
        return False
    before, after = (plan.program.shape(v) for v in (*group.inputs, *group.outputs))
    match group:
        case Rectifier():
            return True
        case Mean():
            return len(before) - 1 not in group.axes and before[-1] == after[-1]
        case AveragePool() | Move() if "window_dimensions" in group.op.params:
            return group.op.params["window_dimensions"][-1] == 1
        case Move() if group.op.name == "pad":
            return tuple(group.op.params["padding_config"][-1]) == (0, 0, 0)
        case Move() if group.op.name in ("copy", "reshape", "squeeze"):
            # Axes of size 1 that come or go leave the last what it is.
            return before[-1] == after[-1] and _wide(before) == _wide(after)
    return False


def _wide(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape[1:] if size > 1]


def _shared(plan: Plan, pairs: list[Pair], floats: Variables) -> dict[str, np.ndarray]:
    """What the channels of each pair's first layer are divided by, so that ranges are alike, by its name."""
    hooks = Float(plan, floats)
    kernels = {
        group.name: np.asarray(hooks.weight(group)[0], np.float64)
        for pair in pairs
        for group in pair[:2]
    }
    factors = [np.ones(kernels[pair.first.name].shape[-1]) for pair in pairs]
    for _ in range(MOST_ROUNDS):
        moved = [_share(pair, kernels) for pair in pairs]
        factors = [factor * more for factor, more in zip(factors, moved, strict=True)]
        if max(np.max(np.abs(np.log(more))) for more in moved) < NEAR_ONE:
            break
    return {pair.first.name: factor for pair, factor in zip(pairs, factors, strict=True)}


def _rescaled(pairs: list[Pair], floats: Variables, factors: Mapping[str, np.ndarray]) -> Variables:
    """Variables with channels of the first layer of each pair divided, and of its reader multiplied."""
    arrays = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(floats)]
    for pair in pairs:
        factor = factors[pair.first.name]
        for leaf in pair.divided:
            arrays[leaf] = _on_columns(arrays[leaf], 1 / factor)
        arrays[pair.multiplied] = _on_rows(pair.second, arrays[pair.multiplied], factor)
    changed = {leaf for pair in pairs for leaf in (*pair.divided, pair.multiplied)}
    return replaced(floats, {leaf: arrays[leaf] for leaf in changed})


def _share(pair: Pair, kernels: dict[str, np.ndarray]) -> np.ndarray:
    """One round of a pair: what its channels are divided and multiplied by, [C]; changes ``kernels``."""
    first, second = kernels[pair.first.name], kernels[pair.second.name]
    own = np.abs(first).reshape(-1, first.shape[-1]).max(0)
    rows = _by_input(pair.second, np.abs(second), own.size)
    other = rows.max(axis=(0, 3)).T.reshape(-1)
    # A silent channel, or one that nothing reads, has no range to share.
    live = (own > 0) & (other > 0)
    factor = np.sqrt(np.where(live, own, 1) / np.where(live, other, 1))
    kernels[pair.first.name] = first / factor
    kernels[pair.second.name] = _on_rows(pair.second, second, factor)
    return factor


def _by_input(group: Weighted, kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel as [window, I / G, G, O / G], the input channel ``g * I / G + i`` at [:, i, g]."""
    groups = group.op.params.get("feature_group_count", 1)
    return kernel.reshape(-1, channels // groups, groups, math.prod(group.channels) // groups)


def _on_rows(group: Weighted, kernel: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The kernel of a layer times a factor an input channel, [C]; depthwise and grouped ones too."""
    rows = _by_input(group, kernel, factor.size)
    by_group = factor.reshape(rows.shape[2], -1).T
    return (rows * by_group[None, :, :, None]).reshape(kernel.shape)


def _on_columns(leaf: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """A leaf times a factor an output channel, [C]: a kernel's last axis, or a number a channel."""
    if leaf.size == factor.size:
        return leaf * factor.reshape(leaf.shape)
    return (leaf.reshape(-1, factor.size) * factor).reshape(leaf.shape)
