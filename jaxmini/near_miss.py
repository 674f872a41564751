"""Near miss: the known name that an unknown one may have been meant for, as errors offer it."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of an error's sentence: ``"; did you mean 'relu'?"``, or nothing where no name is near."""
    near = difflib.get_close_matches(str(name), list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
