"""Parse: texts as values of a type, and how an error says that they are written."""

from collections.abc import Callable
from typing import Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.parse import choices, expected, is_written, parse

Variant = Literal["float32", "int8"]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1e3", int, 1000),
        ("-2", int, -2),
        ("1e-2", float, 0.01),
        ("True", bool, True),
        ("false", bool, False),
        ("a = b", str, "a = b"),
        ("none", type(None), None),
        ("3", int | None, 3),
        ("None", Optional[float], None),  # noqa: UP045
        ("int8", Variant, "int8"),
        ("none", Variant | None, None),
        ("0.5,1", tuple[float, float], (0.5, 1.0)),
        ("(0.5, 1)", tuple[float, float], (0.5, 1.0)),
        ("1,2,3", tuple[int, ...], (1, 2, 3)),
        ("", tuple[int, ...], ()),
        ("a,none", tuple[Variant | None, ...], ValueError),
        ("int8,none", tuple[Variant | None, ...], ("int8", None)),
        ("1.5", int, ValueError),
        ("inf", int, ValueError),
        ("1", bool, ValueError),
        ("int9", Variant, ValueError),
        ("0.5", tuple[float, float], ValueError),
        ("x", Any, ValueError),
        ("x", Callable[[int], int], ValueError),
        ("x", tuple, ValueError),
    ],
)
def test_a_text_is_read_as_its_type_or_refused(text: str, kind: Any, value: Any):
    if value is ValueError:
        with pytest.raises(ValueError):
            parse(text, kind)
    else:
        assert parse(text, kind) == value
        assert type(parse(text, kind)) is type(value)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=4).map(tuple))
def test_the_example_of_a_tuple_is_read_as_the_value_it_was_made_of(value: tuple[float, ...]):
    example = expected(tuple[float, ...], value).partition(" as ")[2]
    assert parse(example, tuple[float, ...]) == value


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (int, True),
        (int | None, True),
        (Variant, True),
        (tuple[float, ...], True),
        (None | type(None), False),
        (Any, False),
        (dict | None, False),
        (tuple[Callable[[int], int], ...], False),
    ],
)
def test_what_can_be_written_as_a_text(kind: Any, written: bool):
    assert is_written(kind) == written


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (int, 3, "int"),
        (bool, True, "true or false"),
        (float | None, None, "float or none"),
        (Variant, "int8", "one of float32, int8"),
        (Variant | None, "int8", "one of float32, int8 or none"),
        (tuple[float, float], (0.6, 1.0), "2 values separated by commas, as 0.6,1.0"),
        (tuple[float, float] | None, None, "2 values separated by commas, as 0.5,0.5 or none"),
        (tuple[int, ...], (), "values separated by commas, as 1,1"),
        (int | dict, 3, "int"),
    ],
)
def test_what_is_expected(kind: Any, value: Any, said: str):
    assert expected(kind, value) == said


def test_choices_are_those_of_literals_alone():
    assert choices(Variant | Literal["auto"] | int) == ("float32", "int8", "auto")
    assert choices(int) == ()
