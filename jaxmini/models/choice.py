"""Choose one of a few named alternatives, or say what there is and which name is nearest."""

from collections.abc import Mapping
from typing import TypeVar

from jaxmini.near_miss import did_you_mean

Value = TypeVar("Value")


def choose(what: str, name: str, alternatives: Mapping[str, Value]) -> Value:
    """The alternative of that name.

    Args:
        what: how errors call the thing that is chosen, e.g. ``"resnet: stem"``.
        name: the name that was asked for.
        alternatives: what there is.

    Raises:
        ValueError: there is no such alternative; lists them, the nearest apart.
    """
    if name in alternatives:
        return alternatives[name]
    there = ", ".join(map(repr, alternatives)) + did_you_mean(name, alternatives)
    raise ValueError(f"{what}: there is no {name!r}, only {there}")
