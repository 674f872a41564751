"""Parse: the text of an override as a value of its field's type, and how such a text is written."""

import types
import typing
from collections.abc import Sequence
from typing import Any


def parse(text: str, kind: Any) -> Any:
    """The text as a value of a type: int, float, bool, str, None, a Literal, or tuples and unions of them.

    Raises:
        ValueError: it is none, or the type is another.
    """
    if _is_union(kind):
        return _parse_first(text, typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return _parse_literal(text, typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return _parse_tuple(text, typing.get_args(kind))
    if kind in _PARSERS:
        return _PARSERS[kind](text)
    raise ValueError(text)


def is_written(kind: Any) -> bool:
    """Whether values of the type, others than None, can be written as a text."""
    if _is_union(kind):
        return any(is_written(one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return True
    if typing.get_origin(kind) is tuple:
        return all(one is ... or is_written(one) for one in typing.get_args(kind))
    return kind in _PARSERS and kind is not type(None)


def expected(kind: Any, value: Any) -> str:
    """How a value of the type is written; ``value``, which the field has, serves as the example."""
    if _is_union(kind):
        kinds = [one for one in typing.get_args(kind) if one is type(None) or is_written(one)]
        return " or ".join(expected(one, value) for one in kinds)
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        count = "values" if kinds[1:] == (...,) else f"{len(kinds)} values"
        return f"{count} separated by commas, as {_tuple_example(kinds, value)}"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def choices(kind: Any) -> tuple[str, ...]:
    """The names that a value of the type may be, if it is one of a few."""
    if _is_union(kind):
        return sum((choices(one) for one in typing.get_args(kind)), ())
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _parse_first(text: str, kinds: Sequence[Any]) -> Any:
    for kind in kinds:
        try:
            return parse(text, kind)
        except ValueError:
            continue
    raise ValueError(text)


def _parse_literal(text: str, names: Sequence[str]) -> str:
    if text not in names:
        raise ValueError(text)
    return text


def _parse_tuple(text: str, kinds: Sequence[Any]) -> tuple:
    items = [item for item in text.strip("()").split(",") if item.strip()]
    kinds = kinds[:1] * len(items) if kinds[1:] == (...,) else kinds
    if len(kinds) != len(items):
        raise ValueError(text)
    return tuple(parse(item.strip(), kind) for item, kind in zip(items, kinds, strict=True))


def _tuple_example(kinds: Sequence[Any], value: Any) -> str:
    if isinstance(value, tuple) and value:
        return ",".join(map(str, value))
    kinds = kinds[:1] * 2 if kinds[1:] == (...,) else kinds
    return ",".join(_EXAMPLES.get(kind, "x") for kind in kinds)


def _integer(text: str) -> int:
    number = float(text)  # 1e3 is a fine way to write an integer
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _nothing(text: str) -> None:
    if text.lower() != "none":
        raise ValueError(text)


_PARSERS = {
    bool: _boolean,
    int: _integer,
    float: float,
    str: str,
    type(None): _nothing,
}
_NAMES = {bool: "true or false", type(None): "none"}
_EXAMPLES = {bool: "true", int: "1", float: "0.5", str: "name"}
