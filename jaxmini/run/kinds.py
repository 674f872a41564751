"""Kinds: what may stand in each field of a stage, told with an example where something else does."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxmini.compress import quantize
from jaxmini.model import Model


def require_kinds(stage: Any, stages: type) -> None:
    """See that what a stage holds can be used as what its fields are called.

    Args:
        stage: a Stage.
        stages: the class of what it starts from, learns from and is compared with.

    Raises:
        TypeError: something else stands there; names the stage, the field, what was given and an example.
    """
    link = (lambda value: isinstance(value, stages), "a stage: the value itself, not its name")
    checks = _CHECKS | dict.fromkeys(("start", "teacher", "against"), link)
    for field in dataclasses.fields(stage):
        value = getattr(stage, field.name)
        if field.name not in checks or value is field.default:
            continue
        is_kind, example = checks[field.name]
        if not is_kind(value):
            raise TypeError(
                f"stage {stage.name!r}: {field.name} is {_shown(value)}, expected {example}"
            )


def _is_made(value: Any) -> bool:
    """Whether it can be called and is no class that was itself to be called in the recipe."""
    return callable(value) and not inspect.isclass(value)


def _is_source(value: Any) -> bool:
    return callable(getattr(value, "load", None)) and not inspect.isclass(value)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "data": (_is_source, "a source, as data.digits() or data.tfds('fashion_mnist')"),
    "model": (
        lambda value: isinstance(value, Model | nn.Module),
        "a flax.linen module or a Model, as models.resnet18(10)",
    ),
    "loss": (_is_made, "(signals, batch) -> (scalar, metrics), as losses.cross_entropy()"),
    "optimizer": (_is_made, "total_steps -> optax.GradientTransformation, as steps.adamw(1e-3)"),
    "view": (_is_made, "(key, image) -> image, as data.shift(1)"),
    "quantize": (
        lambda value: value is None or isinstance(value, quantize.int8 | quantize.weights_only),
        "quantize.int8(), quantize.weights_only() or None",
    ),
}


def _shown(value: Any) -> str:
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__name__} itself, which was not called"
    shown = repr(value)
    return shown if len(shown) <= 60 and "\n" not in shown else f"a {type(value).__name__}"
