"""Features: the vector that a network's head takes, as one more answer; found by the path of the head.

Of a float network it is what the linen module is called with, of a quantized one what the group of its plan
reads. The paths are those that a plan prints, and the patterns those of ``quantize.rule``.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax

from jaxmini.compress.quantize.assignment import matches, near
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.program import Value


def before(plan: Plan, pattern: str) -> Plan:
    """The part of a plan that computes what the head takes: its output is that vector.

    Args:
        plan: of the whole network.
        pattern: a glob of the head's path; the first group that it matches is the head.

    Raises:
        ValueError: nothing matches (offers what is near), or the head does not take one vector a picture.
    """
    head = next((group for group in plan.groups if matches(pattern, group.name)), None)
    if head is None:
        _refuse(pattern, [group.name for group in plan.groups])
    value = next(v for v in head.inputs if not plan.is_constant(v))
    _require_vector(pattern, plan.program.shape(value))
    return dataclasses.replace(plan, output=value, groups=_needed(plan, value))


def with_features(
    function: Callable[[jax.Array], jax.Array], pattern: str
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """The function with what the head takes as a second result.

    Args:
        function: runs linen modules, none of which is inside a lifted transformation (``nn.scan``).
        pattern: a glob of the head's path; the first module called that it matches is the head.

    Returns:
        A function that raises ValueError as ``before`` does.
    """

    def both(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        roots, paths, found = [""], [], []

        def note(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            if context.method_name == "__call__":
                module = context.module
                if not module.path:
                    roots.append(type(module).__name__)
                paths.append("/".join((roots[-1], *module.path)))
                if not found and matches(pattern, paths[-1]):
                    found.append((*args, *kwargs.values())[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            logits = function(image)
        if not found:
            _refuse(pattern, paths)
        _require_vector(pattern, found[0].shape)
        return logits, found[0]

    return both


def _needed(plan: Plan, value: Value) -> tuple:
    """The groups that a value depends on, in their order."""
    needed, groups = {value}, []
    for group in reversed(plan.groups):
        if needed.intersection(group.outputs):
            needed |= {v for v in group.inputs if not plan.is_constant(v)}
            groups.insert(0, group)
    return tuple(groups)


def _require_vector(pattern: str, shape: Iterable[int]) -> None:
    if len(shape := tuple(shape)) != 2:
        raise ValueError(
            f"embedding={pattern!r}: the module takes {list(shape)}, and an embedding is one vector a "
            "picture, [B, D]: give the path of the module behind the mean over the pixels"
        )


def _refuse(pattern: str, names: list[str]) -> None:
    raise ValueError(f"embedding={pattern!r} matches no module; {near(pattern, names)}")
