"""Patterns: what one operation means to a group, for every operation that has a meaning."""

import math

import numpy as np
import pytest
from quantize_functions import alone, op_of, program_of

from jaxmini.compress.quantize.patterns import affine, divides, hides, rectified, scalar
from jaxmini.compress.quantize.plan import Clamp
from jaxmini.compress.quantize.program import Literal, Op

SIX = Clamp(6.0)
# Two values of a program, and what literals hold.
X, Y = 1, 2


def literal(values) -> Literal:
    return Literal(np.asarray(values, np.float32))


def op(name: str, *inputs: object) -> Op:
    return Op(name, "", inputs, (9,), None, {})


class Shapes:
    """A program of which only shapes are asked."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.shapes = {X: shapes.get("x", (2, 4)), Y: shapes.get("y", (4,))}

    def shape(self, value) -> tuple[int, ...]:
        return value.shape if isinstance(value, Literal) else self.shapes[value]


def test_a_scalar_is_a_literal_of_one_number():
    assert [scalar(literal(v)) for v in (3, [3], [[3]])] == [3.0, 3.0, 3.0]
    assert scalar(literal([1, 2])) is None
    assert scalar(X) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (-np.inf, True),
        ([0, -1e9], True),
        (np.finfo(np.float32).min, True),
        ([-1e4, 5], True),
        ([-9e3, 5], False),
    ],
)
def test_a_mask_holds_minus_infinity_in_all_but_name(values, expected):
    assert hides(literal(values)) is expected
    assert not hides(X)


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        (op("relu", X), None, Clamp()),
        (op("relu", X), SIX, SIX),
        (op("relu6", X), None, SIX),
        (op("relu6", X), Clamp(), SIX),
        (op("max", X, literal(0)), None, Clamp()),
        (op("max", literal(0), X), None, Clamp()),
        (op("max", X, literal(0)), SIX, SIX),
        (op("min", X, literal(6)), Clamp(), SIX),
        # min(x, 6) alone lets negative numbers through, and other ends are no rectifier of a file.
        (op("min", X, literal(6)), None, None),
        (op("min", X, literal(3)), Clamp(), None),
        (op("max", X, literal(1)), None, None),
        (op("max", X, Y), None, None),
        (op("max", X, literal([0, 0])), None, None),
        (op("tanh", X), Clamp(), None),
    ],
)
def test_rectifiers(operation, before, after):
    assert rectified(operation, before) == after


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (op("div", X, literal(9)), True),
        (op("mul", X, literal(1 / 9)), True),
        (op("mul", literal(1 / 9), X), True),
        (op("div", literal(9), X), False),
        (op("div", X, literal(8)), False),
        (op("mul", X, literal(9)), False),
        (op("mul", X, Y), False),
        (op("add", X, literal(9)), False),
        (None, False),
    ],
)
def test_a_mean_is_a_sum_that_is_divided_by_its_count(operation, expected):
    assert divides(operation, 9) is expected


def test_as_jax_writes_a_mean():
    program = program_of(alone(lambda x: x.mean(1)), (2, 7))
    assert divides(op_of(program, "div"), 7)


@pytest.mark.parametrize(
    ("operation", "left"),
    [
        (op("add", X, Y), False),
        (op("add", Y, X), True),
        (op("sub", X, Y), False),
        (op("sub", Y, X), True),
        (op("mul", Y, X), True),
        (op("div", X, Y), False),
        (op("mul", X, literal(0.5)), False),
        (op("neg", X), False),
    ],
)
def test_affine_steps(operation, left):
    step = affine(operation, X, operation.inputs, (4,), Shapes())
    assert step.name == operation.name
    if operation.name != "neg":
        assert step.left is left
        assert step.operand is operation.inputs[0 if left else 1]


@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (op("div", Y, X), {}),  # what is divided by x is not affine in it
        (op("mul", X, X), {}),
        (op("add", X, Y), {"y": (2, 4)}),
        (op("add", X, Y), {"y": (2, 1)}),
        (op("max", X, Y), {}),
        (op("add", X, literal([0, -math.inf, 0, 0])), {}),
    ],
)
def test_what_is_no_affine_step(operation, shapes):
    assert affine(operation, X, operation.inputs, (4,), Shapes(**shapes)) is None
