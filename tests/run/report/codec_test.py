"""What goes out as JSON comes back as it was, or names the place where it cannot."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.run.report import codec
from jaxmini.run.report.content import Agreement, Curve, Link, Mistake, Report, StageResult


@dataclasses.dataclass(frozen=True)
class Leaf:
    number: float
    share: float | None = None
    picture: bytes = b""


@dataclasses.dataclass(frozen=True)
class Tree:
    name: str
    leaves: tuple[Leaf, ...] = ()
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    rows: tuple[tuple[int, ...], ...] = ()
    record: Any = None


numbers = st.floats(allow_nan=False)
leaves = st.builds(Leaf, numbers, st.none() | numbers, st.binary(max_size=8))
trees = st.builds(
    Tree,
    st.text(),
    st.lists(leaves, max_size=3).map(tuple),
    st.dictionaries(st.text(), st.integers(), max_size=3),
    st.lists(st.lists(st.integers(), max_size=3).map(tuple), max_size=3).map(tuple),
    st.none() | st.dictionaries(st.text(), st.lists(st.booleans()), max_size=2),
)


@given(trees)
def test_what_went_through_strict_json_is_the_same(tree: Tree) -> None:
    text = json.dumps(codec.encode(tree), allow_nan=False)
    assert codec.decode(Tree, json.loads(text)) == tree


def test_a_whole_number_comes_back_as_the_float_it_was() -> None:
    found = codec.decode(Leaf, {"number": 1}).number
    assert type(found) is float


def test_not_a_number_comes_back() -> None:
    curve = codec.decode(Curve, codec.encode(Curve("loss", (1, 2), (math.nan, -math.inf))))
    assert math.isnan(curve.values[0])
    assert curve.values[1] == -math.inf


def test_an_array_is_refused_with_its_place() -> None:
    report = Report("run", stages=(StageResult("a", "supervised", "x", accuracy=np.float32(0.5)),))
    with pytest.raises(TypeError, match=r"report\.stages\[0\]\.accuracy is a numpy\.float32"):
        codec.encode(report)


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match=r"report\.recipe has the key 1"):
        codec.encode(Report("run", recipe={1: "x"}))


def test_an_unknown_field_offers_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"no field 'digets'; did you mean 'digest'"):
        codec.decode(Link, {"name": "a", "digets": "b"})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(KeyError, match="lacks the field 'confidence'"):
        codec.decode(Mistake, {"index": 1, "truth": 0, "predicted": 1, "png": ""})


@pytest.mark.parametrize(
    "record",
    [
        {"a": 1, "b": "x"},
        {"a": "x", "b": "y", "top1": "high"},
        {"a": "x", "b": "y", "kl": True},
        [],
    ],
)
def test_a_value_of_another_type_is_refused(record: Any) -> None:
    with pytest.raises(TypeError, match=r"report\S* must be a"):
        codec.decode(Agreement, record)
