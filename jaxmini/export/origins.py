"""Origins: where numbers that were only moved were computed, and how many of each in what order."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

# Where numbers were computed: everything that only moves them leads back there. A concatenation has many.
Roots: TypeAlias = tuple[int, ...]

# Roots in the order they are joined, each as often as it comes, with how many numbers are of it; None where
# that is not known.
Runs: TypeAlias = tuple[tuple[int, int | None], ...]


def roots_of(runs: Runs) -> Roots:
    """Each root once, in order: a converter may cut and join anew what borders repeat."""
    return tuple(dict.fromkeys(root for root, _ in runs))


def moved(sources: Iterable[Runs], size: int, *, whole: bool) -> Runs:
    """The runs of what was moved.

    Args:
        sources: of what it was made of, in order.
        size: how many numbers it has, constants too.
        whole: every number of the sources is in it once, one source after another.
    """
    runs = [run for source in sources for run in source]
    roots = roots_of(tuple(runs))
    if len(roots) == 1:
        return ((roots[0], size),)
    return _merged(runs) if whole else tuple((root, None) for root in roots)


def are_other(runs: Runs, others: Runs) -> bool:
    """Whether numbers of the same roots are joined otherwise.

    The numbers of one root are not counted: a border may be of the operator that reads them.
    """
    if len(roots_of(runs)) == 1 or any(count is None for _, count in (*runs, *others)):
        return False
    return runs != others


def counts(runs: Runs) -> str:
    """How many numbers each run has, its root as a letter in the order they come: ``8 a, 4 b, 8 a``."""
    letters = {root: chr(ord("a") + place % 26) for place, root in enumerate(roots_of(runs))}
    return ", ".join(f"{count} {letters[root]}" for root, count in runs)


def _merged(runs: Sequence[tuple[int, int | None]]) -> Runs:
    """The runs with neighbours of one root as one."""
    merged: list[tuple[int, int | None]] = []
    for root, count in runs:
        if merged and merged[-1][0] == root:
            before = merged.pop()[1]
            count = None if None in (before, count) else before + count
        merged.append((root, count))
    return tuple(merged)
