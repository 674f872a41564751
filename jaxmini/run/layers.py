"""Layers: where an int8 file loses accuracy, layer by layer, for the report."""

from pathlib import Path

import numpy as np

from jaxmini.evaluate import native
from jaxmini.evaluate.interpreter import Kernels
from jaxmini.evaluate.noise import LayerNoise, layer_noise
from jaxmini.evaluate.operators import OperatorParity, operator_parity
from jaxmini.export.artifact import Artifact
from jaxmini.export.integer import integer_form
from jaxmini.run.report.content import Layer
from jaxmini.run.stage import Export

# Enough for a ratio of powers: a layer gives thousands of numbers a picture.
PICTURES = 16


def layers_of(
    export: Export, artifact: Artifact, path: Path, images: np.ndarray
) -> tuple[tuple[Layer, ...], str]:
    """Every layer of the file that was written, in the order of the program.

    Args:
        export: that was written.
        artifact: it was written from.
        path: of the file.
        images: uint8 [N, H, W, C], N >= 1; the first ``PICTURES`` are looked at.

    Returns:
        The layers, and on what they were measured; none, and why, where they cannot be.
    """
    if export.variant == "float32":
        return (), ""
    if reason := _hindrance(export, path):
        return (), f"not measured: {reason}"
    images = images[:PICTURES]
    plan, frozen = integer_form(artifact, export.layout.batch)
    noise = layer_noise(path, plan, frozen, artifact.variables, images)
    operators = operator_parity(path, plan, frozen, images)
    compared = {operator.group: operator for operator in operators}
    layers = tuple(_layer(one, compared.get(one.group)) for one in noise)
    return layers, f"on {len(images)} test pictures"


def _hindrance(export: Export, path: Path) -> str:
    """Why the layers of a file cannot be looked at; empty if they can."""
    if export.variant != "int8":
        return "only int8 files are"
    if export.ending != Export.ending:
        return f"a {export.ending} file does not show what its layers give each other"
    try:
        # The runs before kept no tensors; what crashes here would take the whole report with it.
        native.require_runs(path.read_bytes(), path.name, Kernels.XNNPACK.value, keep_all=True)
    except ValueError as error:
        return str(error)
    return ""


def _layer(noise: LayerNoise, operator: OperatorParity | None) -> Layer:
    apart = None if operator is None else operator.deviation
    return Layer(
        name=noise.group,
        operator=noise.operator,
        sqnr=noise.sqnr,
        alone=noise.alone,
        differing=apart.differing / apart.compared if apart else None,
        largest=apart.largest if apart else None,
    )
