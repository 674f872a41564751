"""onnx: an artifact as one .onnx file, float32 or int8, written node by node from its plan.

No converter is involved: the plan's groups have a form each, and the int8 file holds the frozen integers and
grids, in QuantizeLinear and DequantizeLinear; it is read back and compared before it is written.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.transform import is_quantized, is_weights_only, make_plan
from jaxmini.export import bits, converter, metadata, whole
from jaxmini.export import signature as names
from jaxmini.export.artifact import Artifact, require_numbers
from jaxmini.export.integer import integer_form
from jaxmini.export.onnx_file import output_of, written
from jaxmini.export.onnx_graph import OPSET
from jaxmini.export.onnx_numbers import Floats, Integers, Numbers
from jaxmini.export.tflite import Exported
from jaxmini.near_miss import did_you_mean
from jaxmini.record import Json

Variant = Literal["float32", "int8"]
VARIANTS = ("float32", "int8")

# An open batch is planned with this many examples: one could not be told from an axis of size 1.
EXAMPLE_BATCH = 2


def onnx(
    artifact: Artifact, path: Path | str, *, variant: Variant = "float32", batch: int | None = None
) -> Exported:
    """Write an artifact as an .onnx file, opset 17: uint8 ``image`` [N, H, W, C] -> float32 ``logits``.

    Pixels go in as they are, the normalisation is inside. An int8 file holds the integers, scales and zero
    points of the trained network; its logits are dequantized, and ``describe_onnx`` says on which grid
    they lie. Each group is rounded to the nearest integer, as ``simulate`` does it; where .tflite kernels do
    not (products of two activations, hard-swish, leaky-relu, ties of an average pool), it may lie a step
    beside.

    Args:
        artifact: of a model from pictures to logits whose operations the quantizer knows. For ``int8`` it
            is one that ``quantize`` made and training has settled.
        path: of the file; a file there is replaced.
        variant: what numbers the file holds.
        batch: how many pictures the file takes at a time; any number by default.

    Raises:
        TypeError: not an artifact.
        ValueError: unknown variant, one that the model cannot have, or an operation that has no form in the
            file: names it and its module.
        ParityError: a number in the int8 file is not the frozen one.
        ImportError: onnx is not installed; names the extra that brings it.
    """
    require_numbers("onnx", artifact)
    if variant not in VARIANTS:
        there = ", ".join(VARIANTS) + did_you_mean(variant, VARIANTS)
        raise ValueError(f"onnx: unknown variant {variant!r}; there are {there}")
    if batch is not None and batch < 1:
        raise ValueError(f"onnx: batch is {batch}; it must be at least 1, or None for any")
    converter.require("onnx", "onnx")
    plan, numbers, frozen = _prepared(artifact, variant, batch or EXAMPLE_BATCH)
    about = _description(artifact, variant, batch, output_of(plan, frozen))
    content, compared = written(plan, numbers, frozen, about)
    path = Path(path)
    whole.write(path, content)
    return Exported(
        path=path,
        variant=variant,
        backend="onnx",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        ops=dict(Counter(node.op_type for node in load_model(content)[0].graph.node)),
        parity=compared,
    )


def describe_onnx(source: Path | str | bytes) -> dict[str, Json]:
    """What a file that ``onnx`` wrote says of itself: as ``describe_file`` of a .tflite file.

    Raises:
        ValueError: not an .onnx file, or one that jaxmini did not write; names the file.
        ImportError: onnx is not installed.
    """
    model, where = load_model(source)
    about = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.NAME not in about:
        raise ValueError(
            f"{where}: holds no {metadata.NAME!r} metadata, so how its input and output are read is "
            "unknown; it was not written by jaxmini.export.onnx"
        )
    try:
        description = json.loads(about[metadata.NAME])
    except ValueError as error:
        raise ValueError(f"{where}: its {metadata.NAME!r} metadata is damaged ({error})") from error
    if not isinstance(description, dict):
        raise ValueError(f"{where}: its {metadata.NAME!r} metadata is damaged (no names are in it)")
    return description


def load_model(source: Path | str | bytes) -> tuple[Any, str]:
    """The ``ModelProto`` of a file, and what errors call the file.

    Raises:
        ValueError: not an .onnx file, or one that breaks ONNX's own rules.
        ImportError: onnx is not installed.
    """
    converter.require("onnx", "onnx")
    import onnx as package
    from google.protobuf.message import DecodeError

    where = "the file" if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else whole.read(Path(source))
    try:
        model = package.load_model_from_string(content)
        package.checker.check_model(model)
    except (DecodeError, package.checker.ValidationError) as error:
        raise ValueError(f"{where}: not an .onnx file, damaged or cut short ({error})") from error
    return model, where


def float_ops_of(source: Path | str | bytes) -> dict[str, int]:
    """How many of each operation of a file read or give floats, constants included.

    What stands between Q and DQ nodes does, as the file says it; a runtime may compute it in integers.

    Raises:
        ValueError, ImportError: as ``describe_onnx``.
    """
    model, _ = load_model(source)
    import onnx as package  # load_model says what is missing where it is

    graph = package.shape_inference.infer_shapes(model, strict_mode=True).graph
    typed = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in typed}
    types |= {array.name: array.data_type for array in graph.initializer}
    floats = {name for name, kind in types.items() if kind == package.TensorProto.FLOAT}
    nodes = [node for node in graph.node if not floats.isdisjoint((*node.input, *node.output))]
    return dict(Counter(node.op_type for node in nodes))


def _prepared(
    artifact: Artifact, variant: Variant, batch: int
) -> tuple[Plan, Numbers, Frozen | None]:
    """The plan, how its numbers are written, and the integers among them."""
    if variant == "int8":
        plan, frozen = integer_form(artifact, batch)
        bits.require_bits(plan, variant)
        return plan, Integers(frozen), frozen
    if is_quantized(artifact.model):
        own = "as .tflite" if is_weights_only(artifact.model) else "as variant='int8'"
        raise ValueError(
            "onnx: the model is quantized, and variant='float32' would leave out its roundings; export it "
            f"{own}, or the float model it was made from"
        )
    plan = make_plan(artifact.model, artifact.variables, artifact.input_spec(batch))
    return plan, Floats(plan, artifact.variables, artifact.normalization), None


def _description(
    artifact: Artifact, variant: Variant, batch: int | None, output: dict[str, Json]
) -> dict[str, Json]:
    image = {"name": names.INPUT, "shape": [batch, *artifact.input_shape], "dtype": "uint8"}
    return {
        "labels": list(artifact.labels),
        "normalization": dataclasses.asdict(artifact.normalization),
        "input": image | {"encoding": "pixel"},
        "output": output,
        "variant": variant,
        "backend": "onnx",
        "opset": OPSET,
        "provenance": dict(artifact.provenance),
    }
