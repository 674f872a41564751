"""tflite: an artifact as one .tflite file that needs nothing else: pixels in, logits out, labels inside.

Every file has the signature ``serving_default``: ``image`` in, ``logits`` out. Before it is written it is
checked: trained integers (int8, int16x8, weights_only) number by number against the frozen network, what
computes in float by its answers to random pictures against the model's.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmini.compress.quantize.transform import is_quantized, is_weights_only
from jaxmini.export import (
    answers,
    bits,
    edges,
    features,
    flatbuffer,
    int4,
    jax2tf,
    litert,
    metadata,
    parity,
    signatures,
    task_metadata,
    weights,
    whole,
)
from jaxmini.export import signature as names
from jaxmini.export.artifact import Artifact, pixel_function, require_numbers
from jaxmini.export.converter import Backend, require_backend, require_known
from jaxmini.export.integer import integer_file, integer_form
from jaxmini.export.layout import INPUTS, USUAL, Layout, Variant
from jaxmini.export.weights_only import storage, weights_only_file, weights_only_form
from jaxmini.record import Json

ImageFunction = Callable[[jax.Array], Any]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: where it is.
        variant, backend: what was asked for.
        bytes: its size.
        sha256: of its content.
        ops: operator -> how often it occurs.
        parity: how many stored numbers were found equal to the frozen network's; None for the
            variants of float networks.
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
    layout: Layout = USUAL,
) -> Exported:
    """Write an artifact as a .tflite file.

    Without a layout:

    ======================  ==========================  =======================
    variant                 input ``image``             output ``logits``
    ======================  ==========================  =======================
    float32                 float32, pixels 0..255      float32
    float16 (weights)       float32, pixels 0..255      float32
    dynamic_int8 (weights)  float32, pixels 0..255      float32
    weights_only (kernels)  float32, pixels 0..255      float32
    int8 (everything)       int8, ``pixel - 128``       int8, its grid inside
    int16x8 (everything)    int16, ``pixel - mean``     int16, its grid inside
    ======================  ==========================  =======================

    Args:
        artifact: for ``int8`` and ``weights_only``, of a model that ``quantize`` made by the scheme of that
            name, and training has settled; for ``int16x8``, of one by ``int8`` with activations of 16 bits.
        path: of the file; a file there is replaced.
        variant: what numbers the file holds.
        backend: the converter, jax2tf (through TensorFlow) or litert (without); either writes every variant.
        layout: other types of input and output, more pictures a run, int4 kernels, a second signature,
            metadata for other readers.

    Raises:
        TypeError: not an artifact.
        ValueError: unknown variant or backend, a variant or layout that the model cannot have, or an
            operation without a TFLite form; names it.
        ImportError: the back end is not installed; names the extra that brings it.
        ConversionError: the converter failed, or wrote a file that the interpreter refuses.
        ConstraintError, ParityError: the converter wrote a file that does not hold the trained integers, or
            does not answer as the model does.
    """
    require_numbers("tflite", artifact)
    require_known("variant", variant, tuple(INPUTS))
    require_backend(backend)
    layout = layout.of(variant)
    content, checked, kernels = _converted(artifact, variant, backend, layout)
    described = _description(artifact, content, variant, backend)
    if kernels:
        described["kernels"] = kernels
    content = metadata.write(content, described)
    if layout.task_metadata:
        content = task_metadata.add(content, artifact.labels, artifact.normalization)
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


def _converted(
    artifact: Artifact, variant: Variant, backend: Backend, layout: Layout
) -> tuple[bytes, parity.Parity | None, dict[str, str]]:
    """The file, what was compared, and how its kernels are stored where some may be int4."""
    match variant:
        case bits.INT8 | bits.INT16X8:
            form = integer_form(artifact, layout.batch)
            bits.require_bits(form[0], variant)
            content, checked = integer_file(*form, backend, layout)
            file = edges.core(flatbuffer.read(content))
            return content, checked, int4.storage(file, *form) if layout.int4 else {}
        case "weights_only":
            form = weights_only_form(artifact, layout.batch)
            content, checked = weights_only_file(*form, backend, layout, artifact.normalization)
            return content, checked, storage(content, *form) if layout.int4 else {}
    return _float_file(artifact, variant, backend, layout), None, {}


def _float_file(artifact: Artifact, variant: Variant, backend: Backend, layout: Layout) -> bytes:
    if is_quantized(artifact.model):
        own = "weights_only" if is_weights_only(artifact.model) else "int8"
        raise ValueError(
            f"tflite: the model is quantized, and variant={variant!r} would hold its roundings as float "
            f"operators; export it as variant={own!r}, or the float model it was made from"
        )
    function, outputs = _of_pixels(artifact), (names.OUTPUT,)
    if layout.embedding is not None:
        function = features.with_features(function, layout.embedding)
        outputs = (names.OUTPUT, names.EMBEDDING)
    image = jax.ShapeDtypeStruct((layout.batch, *artifact.input_shape), np.dtype(layout.input))
    if backend == "jax2tf":
        content = jax2tf.convert(
            function,
            image,
            outputs,
            float16=variant == "float16",
            dynamic_int8=variant == "dynamic_int8",
        )
    else:
        content = _narrowed(litert.convert(function, image, outputs), variant)
    content = content if layout.embedding is None else signatures.split(content)
    tried = answers.trial(function, image, outputs)
    answers.check(content, tried, answers.TOLERANCES[variant])
    return content


def _narrowed(content: bytes, variant: Variant) -> bytes:
    if variant == "float16":
        return weights.as_float16(content)
    return weights.as_dynamic_int8(content) if variant == "dynamic_int8" else content


def _of_pixels(artifact: Artifact) -> ImageFunction:
    function = pixel_function(artifact)
    return lambda image: function(artifact.variables, image)


def _description(
    artifact: Artifact, content: bytes, variant: Variant, backend: Backend
) -> dict[str, Json]:
    file = flatbuffer.read(content)
    image, logits = file.tensors[file.inputs[0]], file.tensors[file.outputs[0]]
    described = {
        "labels": list(artifact.labels),
        "normalization": dataclasses.asdict(artifact.normalization),
        "input": _tensor(names.INPUT, image) | {"encoding": metadata.ENCODINGS[image.dtype.name]},
        "output": _tensor(names.OUTPUT, logits),
        "signature": names.SIGNATURE,
        "variant": variant,
        "backend": backend,
        "provenance": dict(artifact.provenance),
    }
    if names.EMBEDDING in file.signatures:
        part = flatbuffer.read(content, names.EMBEDDING)
        described[names.EMBEDDING] = _tensor(names.EMBEDDING, part.tensors[part.outputs[0]])
    return described


def _tensor(name: str, tensor: flatbuffer.Tensor) -> dict[str, Json]:
    described: dict[str, Json] = {
        "name": name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.name,
    }
    if tensor.is_quantized:
        described |= {"scale": float(tensor.scale[0]), "zero_point": int(tensor.zero_point[0])}
    return described
