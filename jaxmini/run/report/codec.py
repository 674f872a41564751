"""Codec: frozen dataclasses of plain values to JSON values and back, led by the type annotations.

JSON has no bytes and no NaN: bytes travel as base64, numbers that are not finite as their names.
"""

import base64
import dataclasses
import functools
import math
import types
import typing
from typing import Any, TypeVar

from jaxmini.near_miss import did_you_mean

Record = TypeVar("Record")


def encode(value: Any, place: str = "report") -> Any:
    """The JSON value of a dataclass, container or plain value.

    Raises:
        TypeError: something is not a plain Python value (an array, say); names the place.
    """
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: encode(getattr(value, name), f"{place}.{name}") for name in names}
    if isinstance(value, dict):
        return {_key(key, place): encode(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(
        f"{place} is a {type(value).__module__}.{type(value).__qualname__}; a report holds plain "
        "Python values: use .item() or .tolist()"
    )


def decode(hint: type[Record], value: Any, place: str = "report") -> Record:
    """The value of type ``hint`` that ``encode`` wrote as ``value``.

    Raises:
        TypeError: a value is not of its field's type; names the place.
        KeyError: a field is missing or unknown; names the place and the nearest known one.
    """
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _decode_record(hint, value, place)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        (present,) = [argument for argument in arguments if argument is not types.NoneType]
        return None if value is None else decode(present, value, place)
    if origin is tuple:
        items = _expect(list, value, place)
        return tuple(decode(arguments[0], v, f"{place}[{i}]") for i, v in enumerate(items))
    if origin is dict:
        items = _expect(dict, value, place)
        return {key: decode(arguments[1], v, f"{place}[{key!r}]") for key, v in items.items()}
    return _decode_plain(hint, value, place)


def _decode_record(hint: type[Record], value: Any, place: str) -> Record:
    fields = {field.name: field for field in dataclasses.fields(hint)}
    for name in _expect(dict, value, place):
        if name not in fields:
            raise KeyError(f"{place} has no field {name!r}{did_you_mean(name, fields)}")
    for name, field in fields.items():
        if name not in value and _is_required(field):
            raise KeyError(f"{place} lacks the field {name!r}")
    hints = _hints(hint)
    return hint(**{name: decode(hints[name], v, f"{place}.{name}") for name, v in value.items()})


def _decode_plain(hint: type, value: Any, place: str) -> Any:
    if hint is bytes:
        return base64.b64decode(_expect(str, value, place), validate=True)
    if hint is float:
        if value in ("nan", "inf", "-inf"):
            return float(value)
        value = float(value) if type(value) is int else value
    return _expect(hint, value, place)


def _expect(hint: type[Record], value: Any, place: str) -> Record:
    if type(value) is not hint:
        raise TypeError(f"{place} must be a {hint.__name__}, got {value!r}")
    return value


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{place} has the key {key!r}; keys of a report are strings")
    return key


@functools.cache
def _hints(hint: type) -> dict[str, Any]:
    return typing.get_type_hints(hint)
