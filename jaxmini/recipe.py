"""What a person writes and changes: loading a config file, and overriding its fields by name.

A config is a Python file with ``get_config() -> Recipe``. An override is ``student.epochs=2`` or
``teacher.optimizer.learning_rate=1e-2``: a path of field names from a stage's name on, checked against the
fields' types.
"""

import contextlib
import dataclasses
import importlib.util
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn

from jaxmini import mistake
from jaxmini.export.layout import Layout as Layout
from jaxmini.near_miss import did_you_mean, near_path
from jaxmini.parse import choices, expected, is_written, parse
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

# Of the fields that an error lists, so that it stays a line one reads.
_LISTED = 12


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
        RecipeError: no such file, no ``get_config``, something else than a Recipe, a mistake in the file
            (``FILE:LINE: what``, its cause chained), or a bad override.
    """
    path = Path(path)
    module = imported(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise RecipeError(f"{path} has no function get_config() that returns a Recipe")
    with _mistakes_in(path):
        recipe = get_config()
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"get_config() of {path} returned {type(recipe).__name__}, expected Recipe"
        )
    for assignment in overrides:
        recipe = override(recipe, assignment)
    return Config(path.stem, (module.__doc__ or path.stem).strip(), recipe)


def imported(path: str | Path) -> types.ModuleType:
    """A config file as a module that is found again by its name, as an artifact's own classes have to be.

    Raises:
        RecipeError: no such file, another module of that name, or a mistake in the file.
    """
    path = Path(path)
    if not path.is_file():
        near = near_path(path, "*.py")
        raise RecipeError(f"no config file {path}{near}")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and not _is_of(known, path):
        raise RecipeError(
            f"config {path}: a module called {name!r} is loaded already; rename the file"
        )
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _mistakes_in(path):
        spec.loader.exec_module(module)
    return module


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
            f"override {assignment!r}: expected stage.field=value, {_example(recipe, first, text)} say"
        )
    if first == "gates":
        gates = _assign(recipe.gates, rest, text.strip(), "gates")
        return dataclasses.replace(recipe, gates=gates)
    if first == "exports":
        exports = _assign(recipe.exports, rest, text.strip(), "exports")
        return _replaced(recipe, {}, exports)
    stages = {stage.name: stage for stage in recipe.stages}
    if first not in stages:
        raise RecipeError(
            f"override {assignment!r}: {mistake.unknown('stage', first, [*stages, 'exports', 'gates'])}"
        )
    changed = _assign(stages[first], rest, text.strip(), first)
    return _replace_stage(recipe, stages[first], changed)


@contextlib.contextmanager
def _mistakes_in(path: Path) -> Iterator[None]:
    """Tell what the config file's own code ends in as a mistake of a line of it."""
    try:
        yield
    except mistake.KINDS as error:
        raise RecipeError(mistake.told(error, path)) from error


def _is_of(module: types.ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path.resolve()


def _example(recipe: Recipe, name: str, text: str) -> str:
    """The override that one without a stage or a field may have been meant for."""
    if name in {stage.name for stage in recipe.stages}:
        return f"{name}.epochs=2"
    for stage in recipe.stages:
        if name in _names(stage):
            return f"{stage.name}.{name}={text or '...'}"
    return f"{recipe.stages[0].name}.epochs=2"


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
            f"{where} is {_brief(value)}, which has no field {name!r}; change it in the config file"
        )
    if name not in (names := _names(value)):
        raise RecipeError(f"{where}: {mistake.unknown('field', name, names)}")
    old, inner = getattr(value, name), f"{where}.{name}"
    if isinstance(old, Stage | Export):
        raise RecipeError(_is_another(old, rest, inner))
    new = _assign(old, rest, text, inner) if rest else _read(text, _hint(value, name), old, inner)
    if isinstance(value, nn.Module):
        return value.clone(**{name: new})
    return dataclasses.replace(value, **{name: new})


def _assign_item(value: tuple, name: str, rest: Sequence[str], text: str, where: str) -> tuple:
    if not name.isdigit() or int(name) >= len(value):
        items = f"{len(value)} items, 0 to {len(value) - 1}" if value else "no items"
        raise RecipeError(f"{where} has {items}; got {name!r}")
    index, inner = int(name), f"{where}.{name}"
    old = value[index]
    new = _assign(old, rest, text, inner) if rest else _read(text, type(old), old, inner)
    return (*value[:index], new, *value[index + 1 :])


def _is_another(value: Stage | Export, path: Sequence[str], where: str) -> str:
    """What to say to who would change another stage or export from here, or put one in its place."""
    is_stage = isinstance(value, Stage)
    what = f"the stage {value.name!r}" if is_stage else f"the export {value.file_name}"
    if not path:
        return f"{where} is {what}; change which one it is in the config file"
    own = f"{value.name}.{'.'.join(path)}" if is_stage else "that, as exports.0 or the like"
    return f"{where} is {what}; override {own}"


def _names(value: Any) -> list[str]:
    """The fields of a dataclass that are a person's to set."""
    linen = ("name", "parent") if isinstance(value, nn.Module) else ()
    return [f.name for f in dataclasses.fields(value) if f.init and f.name not in linen]


def _hint(value: Any, name: str) -> Any:
    return typing.get_type_hints(type(value)).get(name, type(getattr(value, name)))


def _read(text: str, hint: Any, old: Any, where: str) -> Any:
    """The text as a value of the field's type."""
    try:
        return parse(text, hint)
    except ValueError as error:
        if is_written(hint) and not dataclasses.is_dataclass(old):
            near = did_you_mean(text, choices(hint))
            told = f"{where} expects {expected(hint, old)}, got {text!r}{near}"
        else:
            told = f"{where} is {_brief(old)}; change it in the config file{_or_fields(old, where)}"
        raise RecipeError(told) from error


def _or_fields(value: Any, where: str) -> str:
    """The end of an error's sentence: which fields below ``where`` can be overridden, if any."""
    fields = _written_fields(value, where)
    more = ", ..." if len(fields) > _LISTED else ""
    listed = f", or override its fields: {', '.join(fields[:_LISTED])}{more}"
    return listed if fields else ""


def _written_fields(value: Any, where: str) -> list[str]:
    """The paths of what a text can be written for, from ``where`` on."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        parts = [(str(index), item, type(item)) for index, item in enumerate(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, Stage | Export):
        parts = [(name, getattr(value, name), _hint(value, name)) for name in _names(value)]
    else:
        return []
    paths = []
    for name, part, hint in parts:
        path = f"{where}.{name}"
        whole = is_written(hint) and not dataclasses.is_dataclass(part)
        paths += [path] if whole else _written_fields(part, path)
    return paths


def _brief(value: Any) -> str:
    """The value on a short line."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"{type(value).__name__}(...)"
