"""Sensitivity: what it costs the network to round one thing alone, a kernel to some bits or an activation."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.grid import Grid, fake_quant
from jaxmini.compress.quantize.kernels import FEWEST_BITS, MOST_BITS, Kernel, per_channel
from jaxmini.compress.quantize.packing import is_packable, stored_bytes
from jaxmini.compress.quantize.pictures import checked_batches
from jaxmini.compress.quantize.plan import Plan, Weighted
from jaxmini.compress.quantize.stored import KernelState, floats_of, in_force
from jaxmini.compress.quantize.transform import make_plan
from jaxmini.losses import kl_divergence
from jaxmini.model import Model, Variables
from jaxmini.state import Array

Measure: TypeAlias = Callable[[Array, Array], Array]
Weights: TypeAlias = dict[str, tuple[Array, Array]]

ALL_BITS = tuple(range(FEWEST_BITS, MOST_BITS + 1))
PER_CHANNEL = per_channel()


def kl(logits: Array, rounded: Array) -> Array:
    """KL divergence of the rounded answers from the float ones, nats, the mean of [N, classes]."""
    return jnp.mean(kl_divergence(rounded, logits, 1.0))


def noise_to_signal(logits: Array, rounded: Array) -> Array:
    """Squared error over squared outputs, float32 []; the SQNR is ``-10 log10`` of it, in dB."""
    signal = jnp.maximum(jnp.mean(jnp.square(logits)), jnp.finfo(jnp.float32).tiny)
    return jnp.mean(jnp.square(rounded - logits)) / signal


@dataclasses.dataclass(frozen=True)
class KernelSensitivity:
    """What rounding one kernel costs.

    Attributes:
        name: of its group in the plan.
        weights: numbers in it.
        channels: of its output; each has a bias.
        costs: by bits.
        packable: whether a file can store it two numbers to a byte, if it has at most four bits.
        bias_bytes: of the bias of a channel.
    """

    name: str
    weights: int
    channels: int
    costs: Mapping[int, float]
    packable: bool = True
    bias_bytes: int = 4

    def bytes(self, bits: int, *, int4: bool = True) -> int:
        """Of the kernel and its bias in a file, of ``Layout(int4=True)`` or of one without."""
        kernel = stored_bytes(self.weights, bits, packed=int4 and self.packable)
        return kernel + self.bias_bytes * self.channels


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What rounding each kernel, and each activation, alone costs; lower is better.

    Attributes:
        kernels: in the order of the plan.
        activations: cost of rounding a site to its 8-bit grid, by its name.
        kernel: how kernels were rounded, but for the bits.
        measure: name of what the costs are.
        pictures: how many they are of.
    """

    kernels: tuple[KernelSensitivity, ...]
    activations: Mapping[str, float]
    kernel: Kernel
    measure: str
    pictures: int

    @property
    def bits(self) -> tuple[int, ...]:
        """The bits that kernels were rounded to, ascending."""
        return tuple(sorted(self.kernels[0].costs)) if self.kernels else ()

    def __str__(self) -> str:
        head = ["weights", *(f"{bits} bits" for bits in self.bits), "activation"]
        rows = [("", head)]
        for one in self.kernels:
            costs = [f"{one.costs[bits]:.3g}" for bits in self.bits]
            activation = self.activations.get(one.name)
            cells = [f"{one.weights:,}", *costs, "" if activation is None else f"{activation:.3g}"]
            rows.append((one.name, cells))
        named = {one.name for one in self.kernels}
        for site, cost in self.activations.items():
            if site not in named:
                rows.append((site, ["", *("" for _ in self.bits), f"{cost:.3g}"]))
        name_width = max(len(name) for name, _ in rows)
        widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(head))]
        lines = [f"{self.measure} of rounding one thing alone, {self.pictures} pictures"]
        lines += [
            "  ".join([name.ljust(name_width), *map(str.rjust, c, widths)]) for name, c in rows
        ]
        return "\n".join(lines)


def sensitivity_of(
    model: Model,
    variables: Variables,
    batches: Iterable[Array],
    *,
    bits: Sequence[int] = ALL_BITS,
    kernel: Kernel = PER_CHANNEL,
    measure: Measure = kl,
) -> Sensitivity:
    """What the float network's answers lose when one kernel, or one activation, is rounded and nothing else.

    Args:
        model: made by ``quantize``.
        variables: calibrated.
        batches: pictures as the model takes them, [B, H, W, C] float32; a few hundred in all.
        bits: to round kernels to, each in 2..8.
        kernel: how else kernels are rounded; its own bits are not read.
        measure: ``(logits, rounded logits) -> []`` of a batch, 0 where they are equal: ``kl``,
            ``noise_to_signal``, or one's own.

    Raises:
        ValueError: the model is not quantized or not calibrated, there are no pictures or they are not
            finite, there are no bits or they are out of range, or a cost is not finite.

    Source: the analysis of single layers in Wu et al., Integer Quantization for Deep Learning Inference
    (2020), partial quantization.
    """
    kinds = (dataclasses.replace(kernel, bits=b) for b in sorted(set(bits)))
    roundings = {kind.bits: kind for kind in kinds}
    if not roundings:
        raise ValueError("sensitivity: there are no bits to round kernels to")
    batches = checked_batches("sensitivity", model, batches)
    trial = _Trial(model, variables, batches, measure)
    kernels = []
    for group in trial.plan.weighted:
        folded, _ = trial.weights[group.name]
        costs = {b: trial.kernel_cost(group, rounding) for b, rounding in roundings.items()}
        kernels.append(
            KernelSensitivity(
                group.name,
                folded.size,
                math.prod(group.channels),
                costs,
                is_packable(trial.plan, group),
                trial.plan.bias_type.itemsize,
            )
        )
    activations = {site: trial.activation_cost(site) for site in trial.plan.sites}
    name = getattr(measure, "__name__", type(measure).__name__)
    pictures = sum(map(len, batches))
    return Sensitivity(tuple(kernels), activations, kernel, name, pictures)


class _Trial:
    """The float network with one thing rounded: one compiled program for all of them."""

    def __init__(
        self, model: Model, variables: Variables, batches: Sequence[Array], measure: Measure
    ) -> None:
        self.plan, self.floats = make_plan(model, variables, batches[0]), floats_of(variables)
        self.grids, _ = in_force(self.plan, variables)
        hooks = Float(self.plan, self.floats)
        self.weights: Weights = {g.name: hooks.weight(g) for g in self.plan.weighted}
        self.batches, self.measure = batches, jax.jit(measure)
        plans = {batch.shape: make_plan(model, variables, batch) for batch in batches}
        self.run = {
            shape: jax.jit(functools.partial(_answers, plan)) for shape, plan in plans.items()
        }
        self.expected = self.answers(self.weights, None)

    def answers(self, weights: Weights, rounded_site: str | None) -> list[Array]:
        on = {site: np.bool_(site == rounded_site) for site in self.plan.sites}
        numbers = self.floats, self.grids, weights, on
        return [self.run[batch.shape](*numbers, batch) for batch in self.batches]

    def cost(self, what: str, weights: Weights, rounded_site: str | None = None) -> float:
        found = self.answers(weights, rounded_site)
        costs = [float(self.measure(*pair)) for pair in zip(self.expected, found, strict=True)]
        cost = float(np.average(costs, weights=[len(batch) for batch in self.batches]))
        if not np.isfinite(cost):
            raise ValueError(f"sensitivity: the cost of rounding {what} is {cost}")
        return cost

    def kernel_cost(self, group: Weighted, rounding: Kernel) -> float:
        kernel, bias = self.weights[group.name]
        input_scale = self.plan.input_scale(group, self.grids)
        _, scale = KernelState().prepare(rounding, kernel, bias, input_scale)
        changed = {group.name: (rounding.fake_quant(kernel, scale), bias)}
        return self.cost(f"the kernel of {group.name}", self.weights | changed)

    def activation_cost(self, site: str) -> float:
        return self.cost(f"the activation {site}", self.weights, site)


class _Alone(Float):
    """The float network with given kernels, and the sites rounded that are on."""

    def __init__(
        self,
        plan: Plan,
        variables: Variables,
        grids: Mapping[str, Grid],
        weights: Weights,
        on: Mapping[str, Array],
    ) -> None:
        super().__init__(plan, variables)
        self.grids, self.weights, self.on = grids, weights, on

    def activation(self, site: str, values: Array) -> Array:
        return jnp.where(self.on[site], fake_quant(values, self.grids[site]), values)

    def weight(self, group: Weighted) -> tuple[Array, Array]:
        return self.weights[group.name]


def _answers(
    plan: Plan,
    variables: Variables,
    grids: Mapping[str, Grid],
    weights: Weights,
    on: Mapping[str, Array],
    inputs: Array,
) -> Array:
    return evaluate(plan, _Alone(plan, variables, grids, weights, on), inputs)
