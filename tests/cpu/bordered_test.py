"""Bordered: the row of zeros below is cut off again, and what has a border is left alone."""

import jax
import pytest

from jaxmini.cpu import bordered
from tests.cpu.case import Case, convolutions, forced, net
from tests.cpu.reference import check_exact, integers

CASES = {
    "no border": net(6, 4, 3, 5, padding="VALID"),
    "cut": net(7, 4, 3, 2, padding=((-1, 0), (0, -1))),
    "a border": net(6, 4, 3, 5),
    "stride 2": net(7, 4, 3, 5, padding="VALID", stride=2),
    "dilated": Case(2, (9, 8), 4, (3, 2), 3, (1, 1), ((0, 0), (0, 0)), (1, 1), (2, 3)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_the_convolution(case: Case):
    value, _, _ = convolutions(case)
    check_exact(bordered.forward, value)


def test_there_is_a_border():
    """What is slow is a convolution without one."""
    value, _, _ = convolutions(CASES["no border"])
    program = jax.make_jaxpr(forced(bordered.forward, value))(*integers(value))
    (equation,) = (e for e in program.eqns if e.primitive is value.primitive)
    assert equation.params["padding"] == ((0, 1), (0, 0))
