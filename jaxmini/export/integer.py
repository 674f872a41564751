"""Integer: the file of a quantized artifact, every number of it compared with the trained one."""

import jax
import numpy as np

from jaxmini.compress.quantize.frozen import Frozen, freeze
from jaxmini.compress.quantize.plan import INPUT, Plan
from jaxmini.compress.quantize.transform import is_quantized, make_plan
from jaxmini.data.views import Normalization
from jaxmini.export import (
    constraints,
    edges,
    features,
    flatbuffer,
    int4,
    jax2tf,
    litert,
    parity,
    repair,
    signatures,
)
from jaxmini.export.annotate import annotated
from jaxmini.export.artifact import Artifact
from jaxmini.export.layout import Layout
from jaxmini.export.signature import EMBEDDING, OUTPUT


def integer_form(artifact: Artifact, batch: int = 1) -> tuple[Plan, Frozen]:
    """The plan and the frozen numbers that the artifact's int8 file holds, for ``simulate`` and ``parity``.

    Args:
        artifact: of a quantized model.
        batch: images at a time that the plan is for; the frozen numbers do not depend on it.

    Raises:
        ValueError: the model is not quantized, or its input grid is not that of the normalised pixels.
    """
    if not is_quantized(artifact.model):
        raise ValueError(
            "tflite: variant='int8' needs a quantized model: wrap it as quantize(model, input_grid="
            "Grid(normalization.scale, normalization.zero_point)) and train or calibrate it"
        )
    plan = make_plan(artifact.model, artifact.variables, artifact.input_spec(batch))
    frozen = freeze(plan, artifact.variables)
    _check_input_grid(frozen, artifact.normalization)
    return plan, frozen


def integer_file(
    artifact: Artifact, backend: str, layout: Layout
) -> tuple[bytes, parity.Parity, dict[str, str]]:
    """The bytes of the file, how many of its numbers were compared, and how each kernel is stored.

    Args:
        artifact: of a quantized model.
        backend: ``jax2tf`` or ``litert``.
        layout: of the variant ``int8``, nothing left open.

    Raises:
        ValueError: as ``integer_form``; or the network has no such head, or no kernel for int4.
        ImportError, ConversionError, ConstraintError, ParityError: as ``tflite``.
    """
    plan, frozen = integer_form(artifact, layout.batch)
    part = None if layout.embedding is None else features.before(plan, layout.embedding)
    content = repair.integer_means(_converted(artifact, backend, plan, frozen, part))
    if layout.int4:
        content = int4.packed(content, plan, frozen)
    if part is not None:
        content = signatures.split(content)
    content = edges.with_edges(content, input=layout.input, output=layout.output)
    checked = _check(flatbuffer.read(content), plan, frozen, layout)
    if part is not None:
        _check(flatbuffer.read(content, EMBEDDING), part, frozen, layout)
    return content, checked, int4.storage(edges.core(flatbuffer.read(content)), plan, frozen)


def _converted(
    artifact: Artifact, backend: str, plan: Plan, frozen: Frozen, part: Plan | None
) -> bytes:
    also = () if part is None else (part.output,)
    function = annotated(plan, frozen, *also)
    image = jax.ShapeDtypeStruct(plan.program.shape(plan.program.input), np.dtype(np.int8))
    outputs = (OUTPUT, *([EMBEDDING] if also else []))
    if backend == "jax2tf":
        return jax2tf.convert_annotated(function, image, outputs)
    return litert.convert(function, image, outputs)


def _check(file: flatbuffer.File, plan: Plan, frozen: Frozen, layout: Layout) -> parity.Parity:
    constraints.check_integer(file, input=layout.input, output=layout.output)
    return parity.check(file, plan, frozen)


def _check_input_grid(frozen: Frozen, normalization: Normalization) -> None:
    grid = frozen.grids[INPUT]
    stored = (np.float32(grid.scale), int(grid.zero_point))
    pixels = (np.float32(normalization.scale), normalization.zero_point)
    if stored != pixels:
        raise ValueError(
            f"the model's input grid is {stored}; that of pixels under {normalization} is {pixels}. "
            "Quantize the model with the grid of the normalization it is trained with"
        )
