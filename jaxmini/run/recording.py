"""Recording: a recipe as JSON, by which a run knows what it computes and what it has computed before.

Stages refer to one another by name. A value that cannot be found again by name is refused.
"""

import dataclasses
from typing import Any

from jaxmini.record import Json, describe
from jaxmini.run.stage import RECORDED_IF_SET, Export, Gate, Recipe, Stage


def record_of(recipe: Recipe) -> Json:
    """The recipe as JSON, stages by name and referring to one another by name.

    Raises:
        TypeError: something in it cannot be found again by name (a lambda, say); names the stage and field.
    """
    return {
        "stages": {stage.name: stage_record(stage) for stage in recipe.stages},
        "exports": {
            export.file_name: _links(export, export.file_name) for export in recipe.exports
        },
        "normalization": describe(recipe.normalization, "normalization"),
        "gates": [
            {"kind": describe(type(gate))["name"], **_links(gate, f"gates.{index}")}
            for index, gate in enumerate(recipe.gates)
        ],
    }


def stage_record(stage: Stage) -> Json:
    """The stage as JSON, the stages it refers to by name."""
    return {"kind": describe(type(stage))["name"], **_links(stage, stage.name)}


def _links(value: Stage | Export | Gate, where: str) -> Json:
    items = {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if not (field.metadata == RECORDED_IF_SET and getattr(value, field.name) == field.default)
    }
    return {name: _link(item, f"{where}.{name}") for name, item in items.items()}


def _link(item: Any, where: str) -> Json:
    match item:
        case Stage():
            return {"stage": item.name}
        case Export():
            return {"export": item.file_name}
    return describe(item, where)
