"""Masks: numbers that softmax must not see, as the additions of an integer file.

A file adds 0 where a number stays and, where it goes, what takes it below the grid: there it becomes the
grid's least number. The grid reaches so far below the numbers that stay that softmax makes nothing of it.
Which go is known before the model runs, or asked of the numbers of tokens.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini import axis
from jaxmini.compress.quantize import questions
from jaxmini.compress.quantize.examples import example_axes
from jaxmini.compress.quantize.grid import HIGH, KERNEL_LIMIT, LOW, Grid
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.patterns import HIDDEN, hides
from jaxmini.compress.quantize.plan import Group
from jaxmini.compress.quantize.program import Literal, Op, Value
from jaxmini.compress.quantize.questions import Answer
from jaxmini.compress.quantize.refusal import KNOWN_BEFORE, OF_TOKENS, refuse, refuse_answers
from jaxmini.state import Array

# A row's hidden numbers together are less than half an integer of softmax's output, 1/256.
HALF_STEP = 1 / 512

# Why a table of 0, minus infinity and other numbers is no mask, and what to do.
BOTH_IN_ONE = "it adds a mask and numbers in one", "add the numbers, then mask by jnp.where"


@dataclasses.dataclass(frozen=True, eq=False)
class Mask(Group):
    """Numbers of which some are hidden from what follows.

    Attributes:
        kept: bool, False where a number is hidden; of the shape of the numbers, or with sizes of 1. None
            where a question of tokens says so, the second of ``inputs``: it may hide all of a row.
        length: of a row.
    """

    kept: np.ndarray | None
    length: int = 1

    @property
    def margin(self) -> float:
        """How far below the numbers kept the hidden ones lie, in the units of softmax's exponent."""
        if self.kept is None:
            return math.log(max(self.length - 1, 1) / HALF_STEP)
        count = self.kept.shape[-1] if self.kept.size > 1 else 1
        most = count - int(self.kept.sum(axis=-1).min(initial=count))
        return math.log(max(most, 1) / HALF_STEP)

    def lowered(self, values: Array, kept: Array) -> Array:
        """The values with the hidden ones as low as the grid has to reach.

        Where nothing of the batch is kept, the least of them stands for the hidden ones: the range is as of
        another batch.
        """
        numbers = lax.stop_gradient(values)
        least = jnp.min(jnp.where(kept, numbers, jnp.inf))
        if self.kept is None:
            least = axis.minimum(least)
            nothing, lowest = jnp.isposinf(least), axis.minimum(jnp.min(numbers))
            kept = kept | (nothing & (numbers > lowest))
            least = jnp.where(nothing, lowest, least)
        return jnp.where(kept, values, least - jnp.float32(self.margin))

    def hidden(self, values: Array, kept: Array, floor: Array | float) -> Array:
        """The values with ``floor`` for the hidden ones."""
        return jnp.where(kept, values, lax.stop_gradient(jnp.float32(floor)))

    def steps(self) -> np.ndarray:
        """What a file adds, int8: 0, or -127 of ``step``; of a question for no and for yes, [2]."""
        kept = np.array([False, True]) if self.kept is None else self.kept
        return np.where(kept, 0, -KERNEL_LIMIT).astype(np.int8)

    @staticmethod
    def step(source: Grid, target: Grid) -> Grid:
        """The grid of what is added: -127 takes the greatest number of ``source`` below ``target``."""
        width = (HIGH - LOW) * (np.float32(source.scale) + np.float32(target.scale))
        return Grid(np.float32(width / KERNEL_LIMIT), np.int32(0))

    def __str__(self) -> str:
        return "hides by tokens" if self.kept is None else f"hides {1 - self.kept.mean():.0%}"


def is_mask(grouping: Grouping, op: Op) -> bool:
    """Whether a choice is one between numbers and something below them all."""
    _, *cases = grouping.inputs(op)
    constants = [case for case in cases if not grouping.is_activation(case)]
    return len(cases) == 2 and len(constants) == 1 and _all_hidden(constants[0])


def selection(grouping: Grouping, op: Op) -> None:
    """Group a choice that ``is_mask``."""
    which, *cases = grouping.inputs(op)
    if not isinstance(which, Literal):
        of_tokens = grouping.program.types[grouping.program.input].dtype == np.int32
        remedy = OF_TOKENS if of_tokens else KNOWN_BEFORE
        refuse(op, "what it chooses is not known before the model runs", remedy)
    active = _active(grouping, cases)
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
        refuse(op, *BOTH_IN_ONE)
    place(grouping, op, next(value for value in inputs if value is not tables[0]), ~hidden)
    return True


def place(grouping: Grouping, op: Op, source: Value, kept: np.ndarray) -> None:
    """Append the mask; it must be the same for every example."""
    rank = len(grouping.program.shape(op.outputs[0]))
    kept = kept.reshape((1,) * (rank - kept.ndim) + kept.shape)
    kept = questions.smallest(kept, range(rank - 1))  # the last axis says how many may be hidden
    if kept.shape[example_axes(grouping.program)[op.outputs[0]] or 0] != 1:
        refuse(op, "it hides other numbers of other examples", "give all examples one mask")
    if not kept.any(axis=-1).all():
        refuse(op, "it hides all numbers of a row", "leave at least one number a row")
    name = grouping.name(op, "mask")
    grouping.add(Mask(name, name, (source,), op.outputs, op, kept))


def asked_mask(grouping: Grouping, op: Op, answers: Mapping[Value, Answer]) -> bool:
    """Group what hides numbers as the model asks of tokens; whether ``op`` reads an answer.

    Raises:
        ValueError: it reads one, and hides nothing by it.
    """
    read = [value for value in op.inputs if isinstance(value, int) and value in answers]
    if not read:
        return False
    if len(read) > 1:
        refuse_answers(op)
    (which,) = read
    if op.name == "select_n" and op.inputs[0] == which and is_mask(grouping, op):
        active = _active(grouping, op.inputs[1:])
        source, keeps_yes = op.inputs[1 + active], bool(active)
    else:
        source, keeps_yes = _added(grouping, op, which, answers[which])
    axes = example_axes(grouping.program)
    if axes[which] != (axes[source] or 0):
        refuse(
            op,
            "it hides numbers of an example by the tokens of others",
            "let the mask have the axis of the examples where the scores have it",
        )
    asked = answers[which].asked
    kept = asked if keeps_yes else questions.opposite(grouping, asked, op.path)
    questions.place(grouping, kept)
    length, name = grouping.program.shape(op.outputs[0])[-1], grouping.name(op, "mask")
    grouping.add(Mask(name, name, (grouping.resolved(source), kept), op.outputs, op, None, length))
    return True


def _added(grouping: Grouping, op: Op, which: Value, answer: Answer) -> tuple[Value, bool]:
    """The value that an answer of 0 and minus infinity is added to; whether yes is what it keeps."""
    first, *others = op.inputs
    if op.name not in ("add", "sub") or (op.name == "sub" and first == which):
        refuse_answers(op)
    source = first if which in others else others[0]
    sign = -1 if op.name == "sub" else 1
    numbers = [sign * float(number) for number in (answer.no, answer.yes)]
    keeps_yes = numbers[0] < HIDDEN
    if min(numbers) >= HIDDEN:
        refuse_answers(op)
    if numbers[keeps_yes] != 0 or not grouping.is_activation(source):
        refuse(op, *BOTH_IN_ONE)
    return source, keeps_yes


def _active(grouping: Grouping, cases: Sequence[Value]) -> int:
    """Which of the cases is no constant."""
    (active,) = (place for place, case in enumerate(cases) if grouping.is_activation(case))
    return active


def _all_hidden(case: Value) -> bool:
    return isinstance(case, Literal) and bool((np.asarray(case.value) < HIDDEN).all())
