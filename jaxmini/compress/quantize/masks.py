"""Masks: numbers that softmax must not see, as the additions of an integer file.

A file adds 0 where a number stays and, where it goes, what takes it below the grid: there it becomes the
grid's least number. The grid reaches so far below the numbers that stay that softmax makes nothing of it.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize.examples import example_axes
from jaxmini.compress.quantize.grid import HIGH, KERNEL_LIMIT, LOW, Grid
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.patterns import HIDDEN, hides
from jaxmini.compress.quantize.plan import Group
from jaxmini.compress.quantize.program import Literal, Op, Value
from jaxmini.compress.quantize.refusal import KNOWN_BEFORE, refuse
from jaxmini.state import Array

# A row's hidden numbers together are less than half an integer of softmax's output, 1/256.
HALF_STEP = 1 / 512


@dataclasses.dataclass(frozen=True, eq=False)
class Mask(Group):
    """Numbers of which some are hidden from what follows.

    Attributes:
        kept: bool, False where a number is hidden; of the shape of the numbers, or with sizes of 1.
    """

    kept: np.ndarray

    @property
    def margin(self) -> float:
        """How far below the numbers kept the hidden ones lie, in the units of softmax's exponent."""
        count = self.kept.shape[-1] if self.kept.size > 1 else 1
        most = count - int(self.kept.sum(axis=-1).min(initial=count))
        return math.log(max(most, 1) / HALF_STEP)

    def lowered(self, values: Array) -> Array:
        """The values with the hidden ones as low as the grid has to reach."""
        kept = jnp.where(self.kept, values, jnp.inf)
        least = lax.stop_gradient(jnp.min(kept)) - jnp.float32(self.margin)
        return jnp.where(self.kept, values, least)

    def hidden(self, values: Array, floor: Array | float) -> Array:
        """The values with ``floor`` for the hidden ones."""
        return jnp.where(self.kept, values, lax.stop_gradient(jnp.float32(floor)))

    def steps(self) -> np.ndarray:
        """What a file adds, int8: 0, or -127 of ``step``."""
        return np.where(self.kept, 0, -KERNEL_LIMIT).astype(np.int8)

    @staticmethod
    def step(source: Grid, target: Grid) -> Grid:
        """The grid of what is added: -127 takes the greatest number of ``source`` below ``target``."""
        width = (HIGH - LOW) * (np.float32(source.scale) + np.float32(target.scale))
        return Grid(np.float32(width / KERNEL_LIMIT), np.int32(0))

    def __str__(self) -> str:
        return f"hides {1 - self.kept.mean():.0%}"


def is_mask(grouping: Grouping, op: Op) -> bool:
    """Whether a choice is one between numbers and something below them all."""
    _, *cases = grouping.inputs(op)
    constants = [case for case in cases if not grouping.is_activation(case)]
    return len(cases) == 2 and len(constants) == 1 and _all_hidden(constants[0])


def selection(grouping: Grouping, op: Op) -> None:
    """Group a choice that ``is_mask``."""
    which, *cases = grouping.inputs(op)
    if not isinstance(which, Literal):
        refuse(op, "what it chooses is not known before the model runs", KNOWN_BEFORE)
    (active,) = (position for position, case in enumerate(cases) if grouping.is_activation(case))
    kept = np.asarray(which.value).astype(bool) == bool(active)
    place(grouping, op, cases[active], kept)


def added_mask(grouping: Grouping, op: Op) -> bool:
    """Group the addition of a table of 0 and minus infinity; whether ``op`` is one."""
    inputs = grouping.inputs(op)
    tables = [value for value in inputs if hides(value)]
    if op.name != "add" or len(tables) != 1:
        return False
    table = np.asarray(tables[0].value)
    hidden = table < HIDDEN
    if (table[~hidden] != 0).any():
        refuse(op, "it adds a mask and numbers in one", "add the numbers, then mask by jnp.where")
    place(grouping, op, next(value for value in inputs if value is not tables[0]), ~hidden)
    return True


def place(grouping: Grouping, op: Op, source: Value, kept: np.ndarray) -> None:
    """Append the mask; it must be the same for every example."""
    rank = len(grouping.program.shape(op.outputs[0]))
    kept = _smallest(kept.reshape((1,) * (rank - kept.ndim) + kept.shape))
    if kept.shape[example_axes(grouping.program)[op.outputs[0]] or 0] != 1:
        refuse(op, "it hides other numbers of other examples", "give all examples one mask")
    if not kept.any(axis=-1).all():
        refuse(op, "it hides all numbers of a row", "leave at least one number a row")
    name = grouping.name(op, "mask")
    grouping.add(Mask(name, name, (source,), op.outputs, op, kept))


def _all_hidden(case: Value) -> bool:
    return isinstance(case, Literal) and bool((np.asarray(case.value) < HIDDEN).all())


def _smallest(kept: np.ndarray) -> np.ndarray:
    """The mask with the size 1 for axes along which it is the same; the last stays as it is."""
    for axis in range(kept.ndim - 1):
        first = kept.take([0], axis)
        if (kept == first).all():
            kept = first
    return kept
