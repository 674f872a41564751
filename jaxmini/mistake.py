"""Mistake: an error in a config file as one line, ``FILE:LINE: what``, and what was perhaps meant."""

import ast
import functools
import inspect
import linecache
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from jaxmini.near_miss import did_you_mean
from jaxmini.run import process

# What mistakes in a config file end in. Anything else is not of that file's making, and keeps its traceback.
KINDS = (TypeError, AttributeError, NameError, SyntaxError, ImportError, ValueError, KeyError)

_KEYWORD = re.compile(r"[\w.<>]+\(\) got an unexpected keyword argument '(\w+)'")
_IMPORTED = re.compile(r"cannot import name '(\w+)'")


def told(error: Exception, path: Path) -> str:
    """What to say of an error, one of KINDS, that reading the config file ``path`` ended in.

    The line is the innermost of the file's own. What was raised further in, and not by jaxmini in words of
    its own, is shown whole by JAXMINI_TRACEBACK=1, which is said.
    """
    if isinstance(error, SyntaxError) and _is_file(error.filename, path):
        text = f": {error.text.strip()}" if error.text else ""
        return f"{_place(path, error.lineno)}: {error.msg}{text}"
    traces = list(_traces(error))
    own = [index for index, trace in enumerate(traces) if _is_file(_file(trace), path)]
    place = _place(path, traces[own[-1]].tb_lineno if own else None)
    if own and (what := _unknown_keyword(error, traces[own[-1] :])):
        return f"{place}: {what}"
    what = process.words(error) + _near(error, traces[-1].tb_frame)
    clear = _is_file(_file(traces[-1]), path) or isinstance(error, SyntaxError)
    where = "" if clear or process.is_told(error) else f" {process.SHOWS_WHERE}"
    return f"{place}: {what}{where}"


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name that is none of those known; offers the nearest."""
    return f"no {what} {name!r}; there are: {', '.join(known)}{did_you_mean(name, known)}"


def _place(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}:{line}"


def _is_file(name: str | None, path: Path) -> bool:
    return name is not None and Path(name).resolve() == path.resolve()


def _traces(error: Exception) -> Iterator[TracebackType]:
    """The traceback, a call at a time, from the outermost on."""
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _file(trace: TracebackType) -> str:
    return trace.tb_frame.f_code.co_filename


def _near(error: Exception, frame: FrameType) -> str:
    """The name that an unknown variable, attribute or import may have been meant for."""
    match error:
        case NameError(name=str() as name):
            return did_you_mean(name, _names(frame))
        case AttributeError(name=str() as name, obj=owner):
            return did_you_mean(name, dir(owner))
        case ModuleNotFoundError(name=str() as name):
            package, _, module = name.rpartition(".")
            return did_you_mean(module, _members(package))
        case ImportError(name=str() as module) if found := _IMPORTED.match(str(error)):
            return did_you_mean(found[1], _members(module))
    return ""


def _names(frame: FrameType) -> dict[str, Any]:
    return {**frame.f_builtins, **frame.f_globals, **frame.f_locals}


def _members(name: str) -> list[str]:
    """What can be imported from a module: its names and its submodules; nothing if it is not loaded."""
    module = sys.modules.get(name)
    if module is None:
        return []
    submodules = pkgutil.iter_modules(getattr(module, "__path__", []))
    return [*dir(module), *(found.name for found in submodules)]


def _unknown_keyword(error: Exception, traces: Iterable[TracebackType]) -> str | None:
    """What to say of an argument that the first of these calls passes on to one that does not take it."""
    found = _KEYWORD.match(str(error)) if isinstance(error, TypeError) else None
    if found is None:
        return None
    keyword, known, first = found[1], {}, None
    for trace in traces:
        called = _called_with(keyword, trace)
        takes = _parameters(called)
        if keyword in takes:
            return None
        first = first or called
        passed_on = [name for name, kind in takes.items() if kind.kind is kind.VAR_KEYWORD]
        known |= dict.fromkeys(name for name in takes if name not in passed_on)
        if takes and not passed_on:
            return f"{first.__qualname__}: {unknown('argument', keyword, list(known))}"
    return None


def _parameters(called: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(called).parameters
    except (TypeError, ValueError):  # nothing was called by name, or what is written in C
        return {}


def _called_with(keyword: str, trace: TracebackType) -> Any:
    """What is called where a traceback stands; None if that has no name, or without the keyword."""
    frame = trace.tb_frame
    place = list(frame.f_code.co_positions())[trace.tb_lasti // 2]
    linecache.checkcache(_file(trace))
    for node in ast.walk(ast.parse("".join(linecache.getlines(_file(trace))))):
        if not isinstance(node, ast.Call) or _positions(node) != place:
            continue
        if any(given.arg in (keyword, None) for given in node.keywords):
            first, *rest = ast.unparse(node.func).split(".")
            found = _names(frame).get(first)
            return functools.reduce(lambda value, name: getattr(value, name, None), rest, found)
    return None


def _positions(node: ast.Call) -> tuple[int, int | None, int, int | None]:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset
