"""Integer: the file of a quantized network, every number of it compared with the trained one."""

import jax
import numpy as np

from jaxmini.compress.quantize.frozen import Frozen, freeze
from jaxmini.compress.quantize.grid import WIDE, Grid
from jaxmini.compress.quantize.plan import INPUT, Plan
from jaxmini.compress.quantize.transform import is_quantized, make_plan
from jaxmini.data.views import Normalization
from jaxmini.export import (
    answers,
    bits,
    constraints,
    edges,
    features,
    fineness,
    flatbuffer,
    int4,
    jax2tf,
    litert,
    parity,
    repair,
    signatures,
    wide_bias,
)
from jaxmini.export.annotate import annotated
from jaxmini.export.artifact import Artifact
from jaxmini.export.converter import Backend, require_backend
from jaxmini.export.islands import allowed
from jaxmini.export.layout import USUAL, Layout
from jaxmini.export.signature import EMBEDDING, OUTPUT


def integer_form(artifact: Artifact, batch: int = 1) -> tuple[Plan, Frozen]:
    """The plan and the frozen numbers that an artifact's integer file holds, for ``simulate``, ``parity``.

    Args:
        artifact: of a quantized model.
        batch: images at a time that the plan is for; the frozen numbers do not depend on it.

    Raises:
        ValueError: the model is not quantized, or its kernels alone are, or its input grid is not that of the
            normalised pixels.
    """
    if not is_quantized(artifact.model):
        raise ValueError(
            "tflite: variant='int8' needs a quantized model: wrap it as quantize(model, input_grid="
            "Grid(normalization.scale, normalization.zero_point)) and train or calibrate it"
        )
    plan = make_plan(artifact.model, artifact.variables, artifact.input_spec(batch))
    if plan.rounds_kernels_alone:
        raise ValueError(
            "tflite: variant='int8' needs a network of integers, and this one is quantized by "
            "weights_only(), its activations are float: export it as "
            "variant='weights_only', or quantize it with int8()"
        )
    frozen = freeze(plan, artifact.variables)
    _check_input_grid(frozen, artifact.normalization)
    return plan, frozen


def pixels(images: np.ndarray, grid: Grid, normalization: Normalization) -> np.ndarray:
    """uint8 images as the integers of a network's input grid: ``pixel - 128``, or less the mean in int16."""
    zero = 128 + normalization.zero_point if grid.bits == WIDE else 128
    return (images.astype(np.int16) - np.int16(zero)).astype(grid.dtype)


def integer_file(
    plan: Plan, frozen: Frozen, backend: Backend, layout: Layout = USUAL
) -> tuple[bytes, parity.Parity]:
    """A quantized network as the bytes of a checked integer file, and how many numbers were compared.

    It is one of variant ``int8``, or ``int16x8`` where the plan's activations are of 16 bits.

    For models that are no ``Artifact`` too, those that read token numbers or return pictures. The file has
    the signature of every file, and no metadata.

    Args:
        plan: for the layout's batch.
        frozen: the integers and grids the file must hold.
        backend: the converter, jax2tf or litert.
        layout: its types at the ends are those of files of pictures; metadata is not written here.

    Raises:
        ValueError: an unknown back end, a plan for another batch, a network without such a head or without
            a kernel for int4, other types for tokens, activations of fewer than 8 bits, or a range of next
            to nothing.
        ImportError: the back end is not installed; names the extra that brings it.
        ConversionError: the converter failed.
        ConstraintError, ParityError: the converter wrote a file that is not the frozen network, or that
            moves its numbers elsewhere, or computes something else in its float islands.
    """
    require_backend(backend)
    variant = bits.variant_of(plan)
    bits.require_bits(plan, variant)
    layout = layout.of(variant)
    _require_fitting(plan, layout)
    fineness.require_coarse(plan, frozen)
    part = None if layout.embedding is None else features.before(plan, layout.embedding)
    content = repair.integer_means(_converted(plan, frozen, backend, part))
    content = repair.repeated_constants(repair.narrow_paddings(content))
    if plan.is_wide:
        content = wide_bias.widened(content, plan, frozen)
    if layout.int4:
        content = int4.packed(content, plan, frozen)
    if part is not None:
        content = signatures.split(content)
    content = edges.with_edges(content, input=layout.input, output=layout.output)
    checked = _check(flatbuffer.read(content), plan, frozen, layout)
    if part is not None:
        _check(flatbuffer.read(content, EMBEDDING), part, frozen, layout)
    answers.check_integers(content, plan, frozen)
    return content, checked


def _require_fitting(plan: Plan, layout: Layout) -> None:
    if plan.rounds_kernels_alone:
        raise ValueError(
            "integer_file: the plan is of a network whose activations are float: write it by "
            "weights_only_file"
        )
    batch = plan.program.shape(plan.program.input)[0]
    if batch != layout.batch:
        raise ValueError(
            f"Layout: batch is {layout.batch}, and the plan is for {batch}: make it for as many"
        )
    if plan.reads_tokens and layout.input != "int8":
        raise ValueError(
            f"Layout: input is {layout.input!r}, a type of pictures, and the network reads tokens: leave "
            "it out"
        )


def _converted(plan: Plan, frozen: Frozen, backend: Backend, part: Plan | None) -> bytes:
    also = () if part is None else (part.output,)
    function = annotated(plan, frozen, *also)
    dtype = np.dtype(np.int32) if plan.reads_tokens else frozen.grids[INPUT].dtype
    inputs = jax.ShapeDtypeStruct(plan.program.shape(plan.program.input), dtype)
    convert = jax2tf.convert_annotated if backend == "jax2tf" else litert.convert
    return convert(function, inputs, (OUTPUT, *([EMBEDDING] if also else [])))


def _check(file: flatbuffer.File, plan: Plan, frozen: Frozen, layout: Layout) -> parity.Parity:
    islands = allowed(plan, frozen)
    activations = frozen.grids[plan.output_site].dtype.name
    constraints.check_integer(
        file, islands, input=layout.input, output=layout.output, activations=activations
    )
    return parity.check(file, plan, frozen)


def _check_input_grid(frozen: Frozen, normalization: Normalization) -> None:
    grid = frozen.grids[INPUT]
    zero_point = 0 if grid.bits == WIDE else normalization.zero_point
    stored = (np.float32(grid.scale), int(grid.zero_point))
    pixels = (np.float32(normalization.scale), zero_point)
    if stored != pixels:
        raise ValueError(
            f"the model's input grid is {stored}; that of pixels under {normalization} is {pixels}. "
            "Quantize the model with the grid of the normalization it is trained with"
        )
