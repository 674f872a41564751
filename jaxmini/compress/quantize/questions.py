"""Questions: yes and no that a model asks of the numbers of tokens, as which of them are padding.

Models write answers as numbers: flax's masks are 0.0 and 1.0, what is added to scores 0.0 and -1e9. Such a
number is one of two, and so is what most operations make of a few of them: here each operation is asked for
every case there is. What is left of it all are comparisons of tokens, and, or and not, which a file computes
exactly.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.examples import example_axes
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.patterns import HIDDEN
from jaxmini.compress.quantize.plan import INPUT, Move
from jaxmini.compress.quantize.program import Literal, Op, Value, needed, run
from jaxmini.state import Array

COMPARISONS = frozenset({"eq", "ge", "gt", "le", "lt", "ne"})
ELEMENTWISE = COMPARISONS | frozenset(
    {
        "add",
        "and",
        "convert_element_type",
        "copy",
        "max",
        "min",
        "mul",
        "neg",
        "not",
        "or",
        "select_n",
        "stop_gradient",
        "sub",
        "xor",
    }
)
# What may move numbers of tokens, and answers.
SHAPING = frozenset(
    {"broadcast_in_dim", "dynamic_slice", "reshape", "slice", "squeeze", "transpose"}
)
SAME = frozenset({"convert_element_type", "copy", "stop_gradient"})

MOST = 4  # questions that one operation may join


@dataclasses.dataclass(frozen=True, eq=False)
class Question(Move):
    """Yes or no of the model's input, bool: exact, and on the site of the input, which has no grid.

    Attributes:
        ops: in the order they run.
    """

    ops: tuple[Op, ...] = dataclasses.field(kw_only=True)

    @property
    def reads(self) -> tuple[Value, ...]:
        """What the operations call the group's ``inputs``."""
        return self.inputs

    def move(self, *operands: Array) -> list[Array]:
        """Tokens [...] -> yes or no [...]."""
        values = dict(zip(self.inputs, operands, strict=True))
        run(self.ops, values)
        return [values[output] for output in self.outputs]

    def __str__(self) -> str:
        names = (op.name for op in self.ops if op.name not in SHAPING | SAME)
        return f"asks {' '.join(names)}"


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """A value whose every number is one of two.

    Attributes:
        asked: bool, which of them; of the value's rank, with sizes of 1 where it is the same. None where the
            number is ``no`` everywhere.
        no, yes: the numbers; ``no`` is the smaller.
    """

    asked: Value | None
    no: np.ndarray
    yes: np.ndarray


def answers(grouping: Grouping) -> Mapping[Value, Answer]:
    """The answers among the values of a program, those of tokens alone.

    What joins questions is added to the program.
    """
    program = grouping.program
    if program.types[program.input].dtype != np.int32:
        return {}
    tokens, found, axes = {program.input}, {}, example_axes(program)
    for op in program.ops:
        output, *others = op.outputs
        if others or axes.get(output) is None:  # of variables, or of several examples
            continue
        first, *others = op.inputs
        known = all(isinstance(value, Literal) for value in others)
        if first in tokens and op.name in SHAPING | SAME and known:
            tokens |= {output} if program.types[output].dtype == np.int32 else set()
        elif op.name in COMPARISONS and all(
            v in tokens or isinstance(v, Literal) for v in op.inputs
        ):
            found[output] = Answer(output, np.bool_(False), np.bool_(True))
        elif (answer := _answer(grouping, op, found)) is not None:
            found[output] = answer
    return found


def opposite(grouping: Grouping, asked: Value, path: str) -> Value:
    """The value that is yes where another is no."""
    return _emitted(grouping, jnp.logical_not, [asked], path)


def place(grouping: Grouping, asked: Value) -> None:
    """Append the question, unless it is asked already."""
    if asked in grouping.site_of:
        return
    active = (op for op in grouping.program.ops if grouping.is_activation(op.outputs[0]))
    ops, source = needed(active, [asked]), (grouping.program.input,)
    name = grouping.name(ops[0], "question")
    grouping.add(Question(name, INPUT, source, (asked,), ops[-1], ops=ops))


def smallest(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """An array with the size 1 for those of the axes along which it is the same."""
    for axis in axes:
        first = array.take([0], axis)
        if (array == first).all():
            array = first
    return array


def _answer(grouping: Grouping, op: Op, found: Mapping[Value, Answer]) -> Answer | None:
    """The answer that an operation makes of answers; None where it makes something else."""
    if not any(isinstance(value, int) and value in found for value in op.inputs):
        return None
    first, *others = op.inputs
    if op.name in SHAPING and all(isinstance(value, Literal) for value in others):
        return _moved(grouping, op, found[first], [value.value for value in others])
    if op.name not in ELEMENTWISE | {"concatenate"}:
        return None
    operands = [
        _of_literal(value) if isinstance(value, Literal) else found.get(value)
        for value in op.inputs
    ]
    if None in operands:
        return None
    combine = _joined if op.name in ELEMENTWISE else _concatenated
    return combine(grouping, op, operands)


def _moved(grouping: Grouping, op: Op, answer: Answer, places: Sequence[np.ndarray]) -> Answer:
    """The answer moved; what is only repeated is not."""
    shape = grouping.program.shape(op.inputs[0])

    def move(asked: Array) -> Array:
        if op.name == "broadcast_in_dim":
            sizes = [1] * len(op.params["shape"])
            for size, axis in zip(asked.shape, op.params["broadcast_dimensions"], strict=True):
                sizes[axis] = size
            return asked.reshape(sizes)
        return op.bind(jnp.broadcast_to(asked, shape), *places)[0]

    return dataclasses.replace(answer, asked=_emitted(grouping, move, [answer.asked], op.path))


def _of_literal(literal: Literal) -> Answer | None:
    """The answer that an array of at most two numbers is."""
    array = np.asarray(literal.value)
    numbers = np.unique(array)
    if len(numbers) == 1:
        return Answer(None, numbers[0], numbers[0])
    if len(numbers) != 2:
        return None
    asked = smallest(array == numbers[1], range(array.ndim))
    return Answer(Literal(asked), *numbers)


def _joined(grouping: Grouping, op: Op, operands: Sequence[Answer]) -> Answer | None:
    """What an operation makes of answers, if that is one of two numbers again."""
    asked = list(dict.fromkeys(o.asked for o in operands if o.asked is not None))
    if len(asked) > MOST:
        return None
    cases = list(itertools.product((False, True), repeat=len(asked)))
    with jax.ensure_compile_time_eval():
        results = np.stack([_case(op, operands, dict(zip(asked, c, strict=True))) for c in cases])
    if results.dtype.kind == "f":  # what is hidden twice is hidden
        hidden = results < HIDDEN
        results = np.where(hidden, results.min(), results)
    numbers = np.unique(results)
    if len(numbers) != 2 or (numbers != numbers).any():
        return None
    yes = {case for case, number in zip(cases, results, strict=True) if number == numbers[1]}
    join = _formula(yes, len(asked))
    return Answer(_emitted(grouping, join, asked, op.path), *numbers)


def _concatenated(grouping: Grouping, op: Op, operands: Sequence[Answer]) -> Answer | None:
    """Answers side by side, if they are of the same two numbers; a place of one's own may be always yes."""
    numbers = np.unique([number for operand in operands for number in (operand.no, operand.yes)])
    if len(numbers) != 2:
        return None
    shapes = [grouping.program.shape(value) for value in op.inputs]

    def join(*asked: Array) -> Array:
        left = iter(asked)
        parts = [o.no == numbers[1] if o.asked is None else next(left) for o in operands]
        return op.bind(*map(jnp.broadcast_to, parts, shapes))[0]

    asked = [operand.asked for operand in operands if operand.asked is not None]
    return Answer(_emitted(grouping, join, asked, op.path), *numbers)


def _case(op: Op, operands: Sequence[Answer], case: Mapping[Value, bool]) -> np.ndarray:
    """The number that an operation makes in one case."""
    numbers = (o.yes if o.asked is not None and case[o.asked] else o.no for o in operands)
    return np.asarray(op.bind(*map(jnp.asarray, numbers))[0])


def _formula(yes: set[tuple[bool, ...]], count: int) -> Callable[..., Array]:
    """The function of ``count`` yes or no that is yes in the cases given, and in no others."""
    if yes == set(itertools.product((False, True), repeat=count)) - {(False,) * count}:
        return lambda *asked: functools.reduce(jnp.logical_or, asked)

    def case(which: tuple[bool, ...], asked: Sequence[Array]) -> Array:
        parts = (a if is_yes else ~a for a, is_yes in zip(asked, which, strict=True))
        return functools.reduce(jnp.logical_and, parts)

    return lambda *asked: functools.reduce(
        jnp.logical_or, (case(which, asked) for which in sorted(yes))
    )


def _emitted(
    grouping: Grouping, function: Callable[..., Array], asked: list[Value], path: str
) -> Value:
    """What a function makes of questions, as operations of the program."""
    ((value,), _) = grouping.emit(function, asked, path)
    return value
