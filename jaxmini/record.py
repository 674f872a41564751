"""Values to JSON and back: how a recipe, a model or a loss is written into the record of a run.

A recipe holds Python objects, not names. Here they are written as ``module:qualified.name`` with the fields
that differ from their defaults, which is enough to compare two recipes and to build a model again.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import math
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxmini.model import Model
from jaxmini.near_miss import did_you_mean

Json = Any

# Bookkeeping fields of linen modules: not part of what the module is.
_LINEN_FIELDS = frozenset({"parent", "name"})
REMEDY = "import the file that defines it first, or put its folder on PYTHONPATH"


class UndefinedError(ImportError):
    """What a description names is not defined by any module that is loaded or can be."""


def describe(value: Any, where: str = "value") -> Json:
    """The value as JSON: plain values as themselves, objects by the name of their class and their fields.

    Args:
        value: numbers, strings, tuples, dicts with string keys, dataclasses (linen modules too), named
            tuples, ``functools.partial`` objects, functions and classes that a module holds by name.
        where: how errors call the value.

    Raises:
        TypeError: the value cannot be found again by name (a lambda, a function made inside another).
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": repr(value)}
        case np.generic():
            return describe(value.item(), where)
        case PurePath():
            return str(value)
        case Mapping():
            return {"dict": {str(k): describe(v, f"{where}[{k!r}]") for k, v in value.items()}}
        case np.ndarray():
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return {"array": str(value.dtype), "shape": list(value.shape), "sha256": digest}
    return _describe_object(value, where)


def rebuild(description: Json) -> Any:
    """The value that ``describe`` described.

    Raises:
        UndefinedError: a module of the description is not on the path, or a name is not in its module (other
            version of the code); names it. It is an ImportError.
        ImportError: something that such a module imports is not installed.
        ValueError: the description holds an array, of which only the digest was kept.
    """
    match description:
        case {"float": text}:
            return float(text)
        case {"dtype": name}:
            return jnp.dtype(name).type
        case {"dict": items}:
            return {key: rebuild(item) for key, item in items.items()}
        case {"name": name}:
            return _find(name)
        case {"call": name, "fields": fields}:
            return _find(name)(**{key: rebuild(item) for key, item in fields.items()})
        case {"partial": name, "args": args, "keywords": keywords}:
            return functools.partial(_find(name), *rebuild(args), **rebuild({"dict": keywords}))
        case {"model": [init, apply], "args": args, "keywords": keywords}:
            bound, named = rebuild(args), rebuild({"dict": keywords})
            return Model(
                *(functools.partial(_find(name), *bound, **named) for name in (init, apply))
            )
        case {"array": dtype, "shape": shape}:
            raise ValueError(
                f"an array {dtype}{shape} was recorded by its digest only and cannot be rebuilt"
            )
        case list():
            return tuple(map(rebuild, description))
    return description


def digest(description: Json) -> str:
    """SHA-256 of a description, the same for equal ones whatever the order of their fields."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _describe_object(value: Any, where: str) -> Json:
    match value:
        case Model(functools.partial() as init, functools.partial() as apply) if _alike(
            init, apply
        ):
            # Both functions of the pair hold the same things: written once, or nested models would double.
            names = [_name(init.func, where), _name(apply.func, where)]
            return {"model": names, **_describe_bound(init, where)}
        case functools.partial():
            return {"partial": _name(value.func, where), **_describe_bound(value, where)}
    if (fields := _fields(value)) is not None:
        return {"call": _name(type(value), where), "fields": _describe_fields(value, fields, where)}
    if isinstance(value, list | tuple):
        return [describe(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if (dtype := _dtype(value)) is not None:
        return {"dtype": dtype}
    return {"name": _name(value, where)}


def _alike(first: functools.partial, second: functools.partial) -> bool:
    return first.args == second.args and first.keywords == second.keywords


def _describe_bound(value: functools.partial, where: str) -> dict[str, Json]:
    return {
        "args": [describe(arg, f"{where}[{i}]") for i, arg in enumerate(value.args)],
        "keywords": {key: describe(item, f"{where}.{key}") for key, item in value.keywords.items()},
    }


def _fields(value: Any) -> dict[str, Any] | None:
    """Field -> default (MISSING if none) of a dataclass instance or a named tuple; None for anything else."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        skipped = _LINEN_FIELDS if isinstance(value, nn.Module) else frozenset()
        fields = {f.name: f.default for f in dataclasses.fields(value) if f.init}
        return {name: default for name, default in fields.items() if name not in skipped}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {
            name: value._field_defaults.get(name, dataclasses.MISSING) for name in value._fields
        }
    return None


def _describe_fields(value: Any, fields: dict[str, Any], where: str) -> dict[str, Json]:
    described = {}
    for name, default in fields.items():
        if not _same(item := getattr(value, name), default):
            described[name] = describe(item, f"{where}.{name}")
    return described


def _same(item: Any, default: Any) -> bool:
    if item is default:
        return True
    return (
        type(item) is type(default)
        and isinstance(item, int | float | str | tuple)
        and item == default
    )


def _dtype(value: Any) -> str | None:
    """The name of a dtype (``jnp.float32``, ``np.float32``, ``np.dtype``); None for anything else."""
    scalar_type = isinstance(value, type) and issubclass(value, np.generic)
    jax_scalar = type(value) is type(jnp.float32)
    return (
        jnp.dtype(value).name if scalar_type or jax_scalar or isinstance(value, np.dtype) else None
    )


def _name(value: Any, where: str) -> str:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or name is None or "<" in name or isinstance(value, types.MethodType):
        raise TypeError(
            f"{where}: {value!r} cannot be found again by name, so a run could not be recorded; "
            "use a function or dataclass defined at the top of a module"
        )
    return f"{module}:{name}"


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # another one, which that module imports
            raise
        raise UndefinedError(
            f"{name} is not to be found, there is no module {error.name!r}: {REMEDY}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, dir(found))
            raise UndefinedError(
                f"{name} is not to be found, {_told(found)} has no {part!r}{near}: {REMEDY}"
            )
        found = getattr(found, part)
    return found


def _told(owner: Any) -> str:
    """A module with its file, as another of the same name may have been meant; a class by its name."""
    if not isinstance(owner, types.ModuleType):
        return owner.__qualname__
    file = getattr(owner, "__file__", None)
    return owner.__name__ if file is None else f"{owner.__name__} ({file})"
