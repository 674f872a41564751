"""Stored: what a quantized model keeps among its variables, told apart from those of the float model.

``params["quant"]`` is what gradients add to grids and kernel scales; the collections ``quant`` (ranges),
``quant_kernels`` (where learned kernel scales started), ``quant_schedule`` and ``quant_oscillation`` are what
training updates. A model has those that its scheme asks for.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize import oscillation, schedule
from jaxmini.compress.quantize.evaluate import Float
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.kernels import Kernel
from jaxmini.compress.quantize.plan import Plan, Weighted
from jaxmini.compress.quantize.ranges import grids_of
from jaxmini.model import FIGURES, PENALTIES, Variables
from jaxmini.state import Array

RANGES = "quant"
LEARNED = "quant"  # among the parameters
KERNELS, CLOCK, OSCILLATION = "quant_kernels", "quant_schedule", "quant_oscillation"
OWN = frozenset({RANGES, KERNELS, CLOCK, OSCILLATION, PENALTIES, FIGURES})


class Stored(NamedTuple):
    """All of that but the ranges; empty where a scheme asks for none.

    Attributes:
        activations: added to the start of each learned site's grid, ``{site: {name: float32 []}}``.
        kernels: added to the start of each learned kernel's scale, ``{group: float32 [O] or []}``.
        starts: those starts, ``{group: float32 [O]}``; NaN before they are known.
        clock: of the schedule.
        histories: of the integers of kernels.
    """

    activations: dict[str, dict[str, Array]]
    kernels: dict[str, Array]
    starts: dict[str, Array]
    clock: schedule.Clock
    histories: dict[str, oscillation.History]

    @classmethod
    def of(cls, variables: Variables) -> "Stored":
        """What the variables of a quantized model hold."""
        learned = variables.get("params", {}).get(LEARNED, {})
        return cls(
            learned.get("activations", {}),
            learned.get("kernels", {}),
            *(variables.get(name, {}) for name in (KERNELS, CLOCK, OSCILLATION)),
        )

    def into(self, variables: Variables) -> Variables:
        """Variables with these among them, in place of any they held."""
        learned = {"activations": self.activations, "kernels": self.kernels}
        learned = {name: tree for name, tree in learned.items() if tree}
        floats = floats_of(variables)
        if learned:
            floats["params"] = {**floats["params"], LEARNED: learned}
        return {**floats, **self.collections()}

    def step(self, name: str, start: Array | None) -> Array | None:
        """The learned scale [O] of a kernel that started there, None where it is not learned."""
        return start + self.kernels[name] if name in self.kernels else None

    def check(self, plan: Plan) -> None:
        """Raise ValueError if this is not what the plan learns."""
        sites = {site for site in plan.observed if plan.activation(site).learned}
        kernels = {group.name for group in _learned(plan)}
        for what, wanted, held in (
            ("sites", sites, self.activations),
            ("kernels", kernels, self.kernels),
            ("kernels", kernels, self.starts),
        ):
            if wanted != set(held):
                odd = sorted(wanted ^ set(held))
                raise ValueError(
                    f"quantize: what is learned of {what} does not fit the model: {', '.join(odd[:3])} "
                    f"({len(odd)} in all): call calibrate(model, variables, batches), which adds it"
                )

    def collections(self) -> Variables:
        """The part that is not parameters."""
        trees = {KERNELS: self.starts, CLOCK: self.clock, OSCILLATION: self.histories}
        return {name: tree for name, tree in trees.items() if tree}


def floats_of(variables: Variables) -> Variables:
    """The variables of the float model alone."""
    floats = {name: tree for name, tree in variables.items() if name not in OWN}
    if LEARNED in floats.get("params", {}):
        params = {name: tree for name, tree in floats["params"].items() if name != LEARNED}
        floats["params"] = params
    return floats


class KernelState(NamedTuple):
    """What training has made of a kernel, besides the kernel itself.

    Attributes:
        step: the learned scale [O]; None where scales are not learned.
        history: of its integers, some of which may be frozen.
    """

    step: Array | None = None
    history: oscillation.History | None = None

    def prepare(
        self, rounding: Kernel, kernel: Array, bias: Array, input_scale: Array | None
    ) -> tuple[Array, Array]:
        """The kernel [..., O] as it is to be rounded, and the scale [O] it is rounded with.

        Without a scale of the input the bias stays float, and asks for no scale of the kernel.
        """
        if input_scale is None:
            bias, input_scale = jnp.zeros_like(bias), jnp.float32(1)
        scale = rounding.scale(kernel, bias, input_scale, self.step)
        if self.history is None:
            return kernel, scale
        return oscillation.held(kernel, scale, self.history), scale


def fresh(plan: Plan, floats: Variables, *, counts: bool, remembers: bool, holds: bool) -> Stored:
    """What a model has before any data.

    Args:
        plan: of the model, with what its scheme chose.
        floats: variables of the float model; only shapes are read.
        counts: keep the number of updates.
        remembers: keep the history of the kernels' integers.
        holds: keep what is learned of activations for the day that grids freeze.
    """
    activations = {
        site: {name: jnp.zeros(()) for name in plan.activation(site).learned}
        for site in plan.observed
        if plan.activation(site).learned
    }
    shapes = {
        name: kernel.shape
        for name, kernel in jax.eval_shape(functools.partial(_kernels, plan), floats).items()
    }
    learned = {group.name: plan.kernel(group) for group in _learned(plan)}
    return Stored(
        activations,
        {name: jnp.zeros(kernel.added(shapes[name][-1])) for name, kernel in learned.items()},
        {name: jnp.full(shapes[name][-1:], jnp.nan) for name in learned},
        schedule.first_clock(activations if holds else {}) if counts else {},
        {name: oscillation.unseen(shape) for name, shape in shapes.items()} if remembers else {},
    )


def kernel_starts(plan: Plan, floats: Variables) -> dict[str, Array]:
    """Where the scale of each learned kernel starts, float32 [O]; traced."""
    kernels = _kernels(plan, floats)
    return {group.name: plan.kernel(group).start(kernels[group.name]) for group in _learned(plan)}


def in_force(plan: Plan, variables: Variables) -> tuple[dict[str, Grid], dict[str, KernelState]]:
    """The grid of every site, and the state of every kernel that has one, as training has left them.

    Raises:
        ValueError: the variables are of another model, or hold what has never seen data.
    """
    stored = Stored.of(variables)
    stored.check(plan)
    activations = schedule.in_force(stored.clock, stored.activations)
    _check_starts(stored.starts)
    return (
        grids_of(plan, variables.get(RANGES, {}), activations),
        {
            group.name: KernelState(
                stored.step(group.name, stored.starts.get(group.name)),
                stored.histories.get(group.name),
            )
            for group in plan.weighted
        },
    )


def _learned(plan: Plan) -> tuple[Weighted, ...]:
    return tuple(group for group in plan.weighted if plan.kernel(group).learned)


def _kernels(plan: Plan, floats: Variables) -> dict[str, Array]:
    hooks = Float(plan, floats)
    return {group.name: hooks.weight(group)[0] for group in plan.weighted}


def _check_starts(starts: Mapping[str, Array]) -> None:
    """Raise ValueError if a learned kernel has never been seen, and its start is a number."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in starts.values()):
        return
    for name, start in jax.device_get(starts).items():
        if np.any(np.isnan(start)):
            raise ValueError(
                f"quantize: the learned scale of {name!r} has no start yet: call calibrate(model, "
                "variables, batches), or train"
            )
