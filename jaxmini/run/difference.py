"""Difference: the fields that tell two records apart, each on a line a person can read.

Records are what ``jaxmini.record.describe`` makes of a recipe, or any other plain JSON.
"""

import json
from typing import Any

# Keys of a record that group a value's fields and are no fields themselves.
_GROUPS = frozenset({"fields", "dict", "keywords"})
_ABSENT = object()
_WIDTH = 60


def difference(before: Any, after: Any, path: str = "") -> list[str]:
    """The fields in which two records differ: ``stages.student.epochs: 2 -> 3``.

    Empty only if they are the same, types and order included.
    """
    if _same(before, after):
        return []
    whole = [f"{path or 'recipe'}: {_told_apart(before, after)}"]
    ours, theirs = _fields(before), _fields(after)
    if ours is None or theirs is None or _constructor(before) != _constructor(after):
        return whole
    lines = [
        line
        for name in {**ours, **theirs}
        for line in difference(
            ours.get(name, _ABSENT),
            theirs.get(name, _ABSENT),
            path if name in _GROUPS else f"{path}.{name}".removeprefix("."),
        )
    ]
    return lines or whole  # no item differs where a list has another order


def _same(before: Any, after: Any) -> bool:
    if before is _ABSENT or after is _ABSENT:
        return before is after
    # As text: to Python 1, 1.0 and True are equal.
    return json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)


def _fields(record: Any) -> dict[str, Any] | None:
    """A record's parts by name; items of a list by their own name where they have one."""
    match record:
        case dict():
            return record
        case list():
            return {_item_name(item) or str(index): item for index, item in enumerate(record)}
    return None


def _item_name(item: Any) -> str | None:
    match item:
        case {"fields": {"name": str(name)}} | {"name": str(name)}:
            return name
    return None


def _constructor(record: Any) -> Any:
    return record.get("call") if isinstance(record, dict) else type(record)


def _told_apart(before: Any, after: Any) -> str:
    """Both in short; by the modules of what made them, or in full, where that reads the same."""
    ours, theirs = _short(before), _short(after)
    if ours == theirs:
        ours, theirs = str(_constructor(before)), str(_constructor(after))
    if ours == theirs:
        ours, theirs = json.dumps(before), json.dumps(after)
    return f"{ours} -> {theirs}"


def _short(record: Any) -> str:
    """A record on part of a line: ``kl(temperature=4)``."""
    match record:
        case _ if record is _ABSENT:
            return "not set"
        case {"call": str(name), "fields": dict(fields)}:
            inner = ", ".join(f"{key}={_short(value)}" for key, value in fields.items())
            text = f"{name.rpartition(':')[2]}({inner})"
        case {"name": str(name), **rest} if not rest:
            text = name.rpartition(":")[2]
        case [_, *_] if all(map(_item_name, record)):
            text = f"[{', '.join(map(_item_name, record))}]"
        case _:
            text = json.dumps(record)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
