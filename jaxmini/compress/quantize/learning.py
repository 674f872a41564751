"""Learning: the mode of training in which gradients, a schedule or oscillations decide on the roundings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmini.compress.quantize.fake import Train
from jaxmini.compress.quantize.grid import fake_quant
from jaxmini.compress.quantize.oscillation import History, figures, followed, monitoring
from jaxmini.compress.quantize.plan import AveragePool, Plan, Weighted
from jaxmini.compress.quantize.ranges import Ranges, is_seen, trained
from jaxmini.compress.quantize.schedule import in_force, phases, ticked
from jaxmini.compress.quantize.stored import CLOCK, OSCILLATION, RANGES, KernelState, Stored
from jaxmini.model import FIGURES, PENALTIES, Variables
from jaxmini.state import Array


class Manner(NamedTuple):
    """What a scheme says of training, besides what it chooses for the parts of a plan.

    Attributes:
        momentum: of the moving average of ranges.
        schedule: when activations are rounded, and when their grids freeze.
        oscillation: what is done about weights that oscillate; None for not even looking.
    """

    momentum: float
    schedule: phases
    oscillation: monitoring | None

    @property
    def counts(self) -> bool:
        """Whether the number of updates matters."""
        return self.schedule != phases() or self.oscillation is not None


class Learn(Train):
    """Rounds as training has decided so far, and notes what the update changes; ``updates`` gives it."""

    def __init__(
        self, plan: Plan, floats: Variables, ranges: Ranges, stored: Stored, manner: Manner
    ) -> None:
        super().__init__(plan, floats, ranges)
        self.stored, self.manner = stored, manner
        _check(stored, manner)
        self.step = stored.clock.get("step", jnp.int32(0))
        self.is_frozen = manner.schedule.is_frozen(self.step)
        added = in_force(stored.clock, stored.activations)
        if manner.schedule.freeze is not None:
            added = jax.tree.map(
                lambda leaf: jnp.where(self.is_frozen, lax.stop_gradient(leaf), leaf), added
            )
        self.added = added
        self.starts: dict[str, Array] = {}
        self.histories: dict[str, History] = {}
        self.penalties: dict[str, dict[str, Array | None]] = {"activations": {}, "kernels": {}}

    def activation(self, site: str, values: Array) -> Array:
        if site in self.plan.fixed:
            return self._after_start(values, fake_quant(values, self.grids[site]))
        kind, added = self.plan.activation(site), self.added.get(site, {})
        start = self.range_of(site, values)
        # Biases, constants and pools are rounded with this one, which has no gradient.
        self.grids[site] = jax.tree.map(lax.stop_gradient, kind.grid(start, added))
        self.penalties["activations"][site] = kind.penalty(start, added)
        return self._after_start(values, kind.fake_quant(values, start, added))

    def average(self, group: AveragePool, values: Array) -> Array:
        return self._after_start(values, super().average(group, values))

    def prepared(
        self, group: Weighted, kernel: Array, bias: Array, input_scale: Array | None
    ) -> tuple[Array, Array]:
        name, rounding, kind = group.name, self.plan.kernel(group), self.manner.oscillation
        if name in self.stored.starts:
            start, first = self.stored.starts[name], rounding.start(kernel)
            self.starts[name] = jnp.where(jnp.isnan(start), first, start)
        history = self.stored.histories.get(name)
        state = KernelState(self.stored.step(name, self.starts.get(name)), history)
        kernel, scale = state.prepare(rounding, kernel, bias, input_scale)
        if history is not None:
            limit = rounding.limit
            self.histories[name] = followed(history, kernel, scale, limit, kind, self.step)
            self.penalties["kernels"][name] = kind.penalty(kernel, scale, limit, self.step)
        return kernel, scale

    def updates(self) -> Variables:
        """The collections after this update, what the objective gets, and what is reported."""
        stored = self.stored._replace(starts=self.starts, histories=self.histories)
        if stored.clock:
            stored = stored._replace(clock=ticked(self.manner.schedule, stored.clock, self.added))
        told = {
            PENALTIES: _sums(self.penalties),
            FIGURES: figures(self.histories) if self.histories else {},
        }
        told = {name: tree for name, tree in told.items() if tree}
        ranges = {RANGES: self._ranges()} if self.ranges else {}
        return {**ranges, **stored.collections(), **told}

    def _ranges(self) -> Ranges:
        """Ranges after this update; learned grids keep their start once they are rounded onto."""
        manner = self.manner
        moved = trained(self.plan, self.ranges, self.seen, manner.momentum)
        is_observing = manner.schedule.is_observing(self.step)
        after = {}
        for site, known in self.ranges.items():
            stays = self.is_frozen & is_seen(known)
            if self.plan.activation(site).learned:
                stays = stays | (is_seen(known) & ~is_observing)
            after[site] = {
                end: jnp.where(stays, known[end], moved[site][end]) for end in ("low", "high")
            }
        return after

    def _after_start(self, values: Array, rounded: Array) -> Array:
        """``rounded``, and the values themselves in the updates before activations are rounded."""
        if self.manner.schedule.start == 0:
            return rounded
        return jnp.where(self.manner.schedule.is_observing(self.step), values, rounded)


def _check(stored: Stored, manner: Manner) -> None:
    """Raise ValueError if what the manner counts on is not among the variables."""
    for name, wanted, there in (
        (CLOCK, manner.counts, stored.clock),
        (OSCILLATION, manner.oscillation is not None, stored.histories),
    ):
        if wanted and not there:
            raise ValueError(
                f"quantize: the variables hold no {name!r}, which the scheme asks for: call "
                "calibrate(model, variables, batches), which adds it"
            )


def _sums(penalties: dict[str, dict[str, Array | None]]) -> dict[str, Array]:
    """The sum of each kind of penalty that there is."""
    there = {
        kind: [value for value in values.values() if value is not None]
        for kind, values in penalties.items()
    }
    return {f"penalty_{kind}": sum(values) for kind, values in there.items() if values}
