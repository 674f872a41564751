"""Difference: each field that differs on its own line, under the name a person knows it by."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.losses.contrastive import nt_xent
from jaxmini.record import describe
from jaxmini.run.difference import difference

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def value(constructor: str, /, **fields):
    """A dataclass as ``jaxmini.record.describe`` writes it."""
    return {"call": f"some.module:{constructor}", "fields": fields}


def stage(name: str, **fields):
    return value("Stage", name=name, **fields)


def recipe(*stages):
    return value("Recipe", stages=list(stages))


@given(JSON)
def test_a_record_does_not_differ_from_itself(record):
    assert difference(record, record) == []


@given(JSON, JSON)
def test_records_that_differ_have_a_line_that_says_so(before, after):
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert bool(difference(before, after)) is not same


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ({"a": 1}, {"a": 1.0}, ["a: 1 -> 1.0"]),
        ({"a": True}, {"a": 1}, ["a: true -> 1"]),
        ({"a": {"b": 1}}, {"a": {}}, ["a.b: 1 -> not set"]),
        ({"a": [1, 2]}, {"a": [1, 3, 4]}, ["a.1: 2 -> 3", "a.2: not set -> 4"]),
        ({"a": [1]}, {"a": {"b": 1}}, ['a: [1] -> {"b": 1}']),
        (1, 2, ["recipe: 1 -> 2"]),
        ({"a": "x" * 99}, {"a": ""}, [f'a: "{"x" * 56}... -> ""']),
        ({"a": "x" * 98 + "y"}, {"a": "x" * 99}, [f'a: "{"x" * 98}y" -> "{"x" * 99}"']),
    ],
)
def test_plain_records(before, after, lines):
    assert difference(before, after) == lines


def test_recipes_are_told_apart_by_the_names_of_their_stages():
    teacher, soft = stage("teacher"), value("kl", temperature=4.0)
    before = recipe(teacher, stage("student", epochs=2, loss=soft))
    for changed, line in (
        (stage("student", epochs=3, loss=soft), "stages.student.epochs: 2 -> 3"),
        (stage("student", loss=soft), "stages.student.epochs: 2 -> not set"),
        (
            stage("student", epochs=2, loss=value("kl", temperature=2.0)),
            "stages.student.loss.temperature: 4.0 -> 2.0",
        ),
        (
            stage("student", epochs=2, loss=value("cross_entropy", label_smoothing=0.1)),
            "stages.student.loss: kl(temperature=4.0) -> cross_entropy(label_smoothing=0.1)",
        ),
        (
            stage("student", epochs=2, loss=soft, start=teacher),
            'stages.student.start: not set -> Stage(name="teacher")',
        ),
        (
            stage("student", epochs=2, loss={"name": "my.losses:focal"}),
            "stages.student.loss: kl(temperature=4.0) -> focal",
        ),
    ):
        assert difference(before, recipe(teacher, changed)) == [line]


def test_what_differs_by_its_module_alone_is_told_with_it():
    ours, theirs = ({"call": f"{module}:spread", "fields": {"times": 30}} for module in "ab")
    assert difference(ours, theirs) == ["recipe: a:spread -> b:spread"]
    assert difference({"name": "a:focal"}, {"name": "b:focal"}) == ['name: "a:focal" -> "b:focal"']


def test_a_stage_that_came_in_or_went_is_one_line():
    one, two = recipe(stage("a")), recipe(stage("a"), stage("b"))
    assert difference(one, two) == ['stages.b: not set -> Stage(name="b")']
    assert difference(two, one) == ['stages.b: Stage(name="b") -> not set']


def test_the_order_of_stages_is_a_difference():
    first, second = stage("a"), stage("b")
    lines = difference(recipe(first, second), recipe(second, first))
    assert lines == ["stages: [a, b] -> [b, a]"]


def test_items_of_one_name_do_not_hide_each_other():
    twice = recipe(stage("a", epochs=1), stage("a", epochs=2))
    assert difference(twice, recipe(stage("a", epochs=3), stage("a", epochs=2)))


def test_a_record_of_a_real_value_is_read():
    before, after = (describe(nt_xent(temperature=t)) for t in (0.3, 0.6))
    assert difference(before, after) == ["temperature: 0.3 -> 0.6"]
