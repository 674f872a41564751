"""What a person writes and changes: loading a config file, and overriding its fields by name.

A config is a Python file with ``get_config() -> Recipe``. An override is ``student.epochs=2`` or
``teacher.optimizer.learning_rate=1e-2``: a path of field names from a stage's name on, checked against the
fields' types.
"""

import dataclasses
import difflib
import importlib.util
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn

from jaxmini.export.layout import Layout as Layout
from jaxmini.run.formats import Onnx as Onnx
from jaxmini.run.formats import SavedModel as SavedModel
from jaxmini.run.formats import StableHLO as StableHLO
from jaxmini.run.recording import record_of as record_of
from jaxmini.run.stage import Contrastive as Contrastive
from jaxmini.run.stage import Distill as Distill
from jaxmini.run.stage import Export as Export
from jaxmini.run.stage import Gate as Gate
from jaxmini.run.stage import PostTraining as PostTraining
from jaxmini.run.stage import Recipe as Recipe
from jaxmini.run.stage import Stage as Stage
from jaxmini.run.stage import Supervised as Supervised

Referring = TypeVar("Referring", bound=Stage | Export | Gate)


class RecipeError(ValueError):
    """A config file or an override that cannot be used; the message says what to write instead."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A config file: its recipe, and the docstring that says what it is for."""

    name: str
    text: str
    recipe: Recipe


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The recipe of a config file, with overrides applied in order.

    Raises:
        RecipeError: no such file, no ``get_config``, something else than a Recipe, or a bad override.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(str(path), map(str, path.parent.glob("*.py")), 1, 0.5)
        raise RecipeError(f"no config file {path}" + (f". Did you mean {near[0]}?" if near else ""))
    module = _import(path)
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise RecipeError(f"{path} has no function get_config() that returns a Recipe")
    recipe = get_config()
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"get_config() of {path} returned {type(recipe).__name__}, expected Recipe"
        )
    for assignment in overrides:
        recipe = override(recipe, assignment)
    return Config(path.stem, (module.__doc__ or path.stem).strip(), recipe)


def override(recipe: Recipe, assignment: str) -> Recipe:
    """The recipe with one field changed, in every stage, export and gate that refers to what changed.

    Args:
        recipe: what ``get_config`` returned.
        assignment: ``path=value``; a path starts with a stage's name, or with ``exports.0`` or ``gates.0``
            and the like.

    Raises:
        RecipeError: an unknown name (with the nearest), or a value of another type than the field's.
    """
    path, equals, text = assignment.partition("=")
    first, *rest = path.strip().split(".")
    if not equals or not rest:
        raise RecipeError(
            f"override {assignment!r}: expected stage.field=value, student.epochs=2 say"
        )
    if first == "gates":
        return _assign(recipe, [first, *rest], text.strip(), "recipe")
    if first == "exports":
        exports = _assign(recipe.exports, rest, text.strip(), "recipe.exports")
        return _replaced(recipe, {}, exports)
    stages = {stage.name: stage for stage in recipe.stages}
    if first not in stages:
        raise RecipeError(
            f"override {assignment!r}: {unknown('stage', first, [*stages, 'exports', 'gates'])}"
        )
    changed = _assign(stages[first], rest, text.strip(), first)
    return _replace_stage(recipe, stages[first], changed)


def _import(path: Path) -> types.ModuleType:
    """The file as a module that can be found again by its name, as the record of a run needs."""
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    if (known := sys.modules.get(name)) is not None and getattr(known, "__file__", None) != str(
        path
    ):
        raise RecipeError(
            f"config {path}: a module called {name!r} is loaded already; rename the file"
        )
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _replace_stage(recipe: Recipe, old: Stage, new: Stage) -> Recipe:
    """The recipe with a stage exchanged, and with every stage after it pointing at the new one."""
    current: dict[str, Stage] = {}
    for stage in recipe.stages:
        current[stage.name] = new if stage.name == old.name else _relinked(stage, current)
    exports = tuple(_relinked(export, current) for export in recipe.exports)
    return _replaced(recipe, current, exports)


def _replaced(recipe: Recipe, stages: Mapping[str, Stage], exports: Sequence[Export]) -> Recipe:
    """The recipe with new stages in the place of those of these names, and with all of its exports new."""
    files = {old.file_name: new for old, new in zip(recipe.exports, exports, strict=True)}
    return dataclasses.replace(
        recipe,
        stages=tuple(stages.get(stage.name, stage) for stage in recipe.stages),
        exports=tuple(exports),
        gates=tuple(_relinked(gate, stages, files) for gate in recipe.gates),
    )


def _relinked(
    value: Referring, stages: Mapping[str, Stage], exports: Mapping[str, Export] | None = None
) -> Referring:
    """A stage, export or gate that refers to what has come in the place of stages and exports by name."""
    links = {}
    for field in dataclasses.fields(value):
        match getattr(value, field.name):
            case Stage() as stage:
                links[field.name] = stages.get(stage.name, stage)
            case Export() as export:
                links[field.name] = (exports or {}).get(export.file_name, export)
    return dataclasses.replace(value, **links)


def _assign(value: Any, path: Sequence[str], text: str, where: str) -> Any:
    """``value`` with the field at ``path`` set to what ``text`` means there."""
    name, *rest = path
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return _assign_item(value, name, rest, text, where)
    if not dataclasses.is_dataclass(value):
        raise RecipeError(
            f"{where} is {value!r}, which has no field {name!r}; change it in the config file"
        )
    names = [f.name for f in dataclasses.fields(value) if f.init and f.name not in ("parent",)]
    if name not in names:
        raise RecipeError(f"{where}: {unknown('field', name, names)}")
    old, inner = getattr(value, name), f"{where}.{name}"
    if isinstance(old, Stage):
        raise RecipeError(
            f"{inner} is the stage {old.name!r}; override {old.name}.{'.'.join(rest) or '...'}"
        )
    if isinstance(old, Export):
        raise RecipeError(
            f"{inner} is the export {old.file_name}; override that, as exports.0 or the like"
        )
    hint = typing.get_type_hints(type(value)).get(name, type(old))
    new = _assign(old, rest, text, inner) if rest else _parse(text, hint, old, inner)
    if isinstance(value, nn.Module):
        return value.clone(**{name: new})
    return dataclasses.replace(value, **{name: new})


def _assign_item(value: tuple, name: str, rest: Sequence[str], text: str, where: str) -> tuple:
    if not name.isdigit() or int(name) >= len(value):
        raise RecipeError(f"{where} has {len(value)} items, 0 to {len(value) - 1}; got {name!r}")
    index, inner = int(name), f"{where}.{name}"
    old = value[index]
    new = _assign(old, rest, text, inner) if rest else _parse(text, type(old), old, inner)
    return (*value[:index], new, *value[index + 1 :])


def _parse(text: str, hint: Any, old: Any, where: str) -> Any:
    """The text as a value of the field's type."""
    kinds = typing.get_args(hint) if _is_union(hint) else (hint,)
    for kind in kinds:
        try:
            return _parse_as(text, kind)
        except ValueError:
            continue
    if dataclasses.is_dataclass(old):
        fields = ", ".join(f"{where}.{f.name}" for f in dataclasses.fields(old))
        raise RecipeError(f"{where} is {old!r}; override its fields: {fields}")
    if all(kind not in _PARSERS and typing.get_origin(kind) is None for kind in kinds):
        raise RecipeError(f"{where} is {old!r}; change it in the config file")
    expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise RecipeError(f"{where} expects {expected}, got {text!r}")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _parse_as(text: str, kind: Any) -> Any:
    """The text as that type. Raises ValueError if it is none."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if text in args:
            return text
        raise ValueError(text)
    if origin is tuple:
        items = [item for item in text.strip("()").split(",") if item.strip()]
        kinds = args[:1] * len(items) if args[1:] == (...,) else args
        if len(kinds) != len(items):
            raise ValueError(text)
        return tuple(
            _parse_as(item.strip(), item_kind) for item, item_kind in zip(items, kinds, strict=True)
        )
    if kind in _PARSERS:
        return _PARSERS[kind](text)
    raise ValueError(text)


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


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name that is none of those known; offers the nearest."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    if near:
        return f"no {what} {name!r}. Did you mean {near[0]!r}? There are: {', '.join(known)}"
    return f"no {what} {name!r}; there are: {', '.join(known)}"
