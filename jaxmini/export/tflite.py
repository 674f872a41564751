"""tflite: an artifact as one .tflite file that needs nothing else: pixels in, logits out, labels inside.

Every file has the signature ``serving_default``: ``image`` of one picture in, ``logits`` out. An int8 file
is checked against the frozen network before it is written.
"""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxmini.compress.quantize.frozen import Frozen, freeze
from jaxmini.compress.quantize.plan import INPUT, Plan
from jaxmini.compress.quantize.transform import is_quantized, make_plan
from jaxmini.data.views import Normalization
from jaxmini.export import (
    constraints,
    flatbuffer,
    jax2tf,
    litert,
    metadata,
    parity,
    repair,
    weights,
    whole,
)
from jaxmini.export import signature as names
from jaxmini.export.annotate import annotated
from jaxmini.export.artifact import Artifact, pixel_function
from jaxmini.export.islands import allowed
from jaxmini.record import Json

Variant = Literal["float32", "float16", "dynamic_int8", "int8"]
Backend = Literal["jax2tf", "litert"]

ImageFunction = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: where it is.
        variant, backend: what was asked for.
        bytes: its size.
        sha256: of its content.
        ops: operator -> how often it occurs.
        parity: how many stored numbers were found equal to the frozen network's; None for float variants.
    """

    path: Path
    variant: Variant
    backend: Backend
    bytes: int
    sha256: str
    ops: Mapping[str, int]
    parity: parity.Parity | None


def tflite(
    artifact: Artifact,
    path: Path | str,
    *,
    variant: Variant = "float32",
    backend: Backend = "jax2tf",
) -> Exported:
    """Write an artifact as a .tflite file of batch 1.

    ======================  ==========================  =======================
    variant                 input ``image``             output ``logits``
    ======================  ==========================  =======================
    float32                 float32, pixels 0..255      float32
    float16 (weights)       float32, pixels 0..255      float32
    dynamic_int8 (weights)  float32, pixels 0..255      float32
    int8 (everything)       int8, ``pixel - 128``       int8, its grid inside
    ======================  ==========================  =======================

    Args:
        artifact: for ``int8``, of a model that ``quantize`` made and training has settled.
        path: of the file; a file there is replaced.
        variant: what numbers the file holds.
        backend: the converter, jax2tf (through TensorFlow) or litert (without); either writes every variant.

    Raises:
        ValueError: unknown variant or backend, or a variant that the model cannot have.
        ImportError: the back end is not installed; names the extra that brings it.
        ConversionError: the converter failed.
        ConstraintError, ParityError: the converter wrote an int8 file that is not the trained network.
    """
    _known("variant", variant, ("float32", "float16", "dynamic_int8", "int8"))
    _known("backend", backend, ("jax2tf", "litert"))
    if variant == "int8":
        content, checked = integer_file(*integer_form(artifact), backend)
    else:
        content, checked = _float_file(artifact, variant, backend), None
    content = metadata.write(content, _description(artifact, content, variant, backend))
    whole.write(Path(path), content)
    return Exported(
        path=Path(path),
        variant=variant,
        backend=backend,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        ops=flatbuffer.read(content).op_counts,
        parity=checked,
    )


def _float_file(artifact: Artifact, variant: Variant, backend: Backend) -> bytes:
    if is_quantized(artifact.model):
        raise ValueError(
            f"tflite: the model is quantized, and variant={variant!r} would hold its roundings as float "
            "operators; export it as variant='int8', or the float model it was made from"
        )
    function, image = _of_pixels(artifact), artifact.input_spec(1)
    if backend == "jax2tf":
        return jax2tf.convert(
            function, image, float16=variant == "float16", dynamic_int8=variant == "dynamic_int8"
        )
    content = litert.convert(function, image)
    if variant == "float16":
        return weights.as_float16(content)
    return weights.as_dynamic_int8(content) if variant == "dynamic_int8" else content


def _of_pixels(artifact: Artifact) -> ImageFunction:
    function = pixel_function(artifact)
    return lambda image: function(artifact.variables, image)


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


def integer_file(plan: Plan, frozen: Frozen, backend: Backend) -> tuple[bytes, parity.Parity]:
    """A quantized network as the bytes of a checked int8 file, and how many numbers were compared.

    For models that are no ``Artifact``, those that read token numbers or return pictures. The file has the
    signature of every file, and no metadata.

    Args:
        plan: for a batch of one.
        frozen: the integers and grids the file must hold.
        backend: the converter, jax2tf or litert.

    Raises:
        ImportError: the back end is not installed; names the extra that brings it.
        ConversionError: the converter failed.
        ConstraintError, ParityError: the converter wrote a file that is not the frozen network.
    """
    _known("backend", backend, ("jax2tf", "litert"))
    program = plan.program
    dtype = np.dtype(np.int32 if plan.reads_tokens else np.int8)
    inputs = jax.ShapeDtypeStruct(program.shape(program.input), dtype)
    convert = jax2tf.convert_annotated if backend == "jax2tf" else litert.convert
    content = repair.integer_means(convert(annotated(plan, frozen), inputs))
    content = repair.narrow_paddings(content)
    constraints.check_integer(content, allowed(plan, frozen))
    return content, parity.check(content, plan, frozen)


def _check_input_grid(frozen: Frozen, normalization: Normalization) -> None:
    grid = frozen.grids[INPUT]
    stored = (np.float32(grid.scale), int(grid.zero_point))
    pixels = (np.float32(normalization.scale), normalization.zero_point)
    if stored != pixels:
        raise ValueError(
            f"the model's input grid is {stored}; that of pixels under {normalization} is {pixels}. "
            "Quantize the model with the grid of the normalization it is trained with"
        )


def _description(
    artifact: Artifact, content: bytes, variant: Variant, backend: Backend
) -> dict[str, Json]:
    file = flatbuffer.read(content)
    image, logits = file.tensors[file.inputs[0]], file.tensors[file.outputs[0]]
    return {
        "labels": list(artifact.labels),
        "normalization": dataclasses.asdict(artifact.normalization),
        "input": _tensor(names.INPUT, image) | {"encoding": metadata.ENCODINGS[image.dtype.name]},
        "output": _tensor(names.OUTPUT, logits),
        "signature": names.SIGNATURE,
        "variant": variant,
        "backend": backend,
        "provenance": dict(artifact.provenance),
    }


def _tensor(name: str, tensor: flatbuffer.Tensor) -> dict[str, Json]:
    described: dict[str, Json] = {
        "name": name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.name,
    }
    if tensor.is_quantized:
        described |= {"scale": float(tensor.scale[0]), "zero_point": int(tensor.zero_point[0])}
    return described


def _known(what: str, name: Any, known: tuple[str, ...]) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"tflite: unknown {what} {name!r}; there are {', '.join(known)}{hint}")
