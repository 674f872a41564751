"""Near miss: the known name that an unknown one may have been meant for, as errors offer it."""

import difflib
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of an error's sentence: ``"; did you mean 'relu'?"``, or nothing where no name is near."""
    near = difflib.get_close_matches(str(name), list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def near_path(path: Path, pattern: str = "*") -> str:
    """The same for a path that is not there: what lies beside it under the nearest name."""
    beside = {other.name: str(other) for other in path.parent.glob(pattern)}
    near = difflib.get_close_matches(path.name, list(beside), 1)
    return f"; did you mean {beside[near[0]]!r}?" if near else ""
