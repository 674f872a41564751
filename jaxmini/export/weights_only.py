"""Weights only: the file of a network of which only kernels are rounded: stored integers, float operators."""

from collections.abc import Callable

import jax
import numpy as np
from jax import lax

from jaxmini.compress.quantize.evaluate import evaluate_group
from jaxmini.compress.quantize.frozen import Frozen, freeze
from jaxmini.compress.quantize.plan import Plan, Weighted
from jaxmini.compress.quantize.program import Value
from jaxmini.compress.quantize.transform import is_quantized, make_plan
from jaxmini.data.views import Normalization
from jaxmini.export import (
    answers,
    editing,
    features,
    flatbuffer,
    float_kernels,
    int4,
    jax2tf,
    litert,
    repair,
    signatures,
)
from jaxmini.export.annotate import Annotations
from jaxmini.export.artifact import Artifact, normalized
from jaxmini.export.converter import Backend, require_backend
from jaxmini.export.layout import USUAL, Layout
from jaxmini.export.parity import Parity
from jaxmini.export.signature import EMBEDDING, OUTPUT
from jaxmini.state import Array

INT4_VERSION = 6  # of DEQUANTIZE, the first that takes int4


def weights_only_form(artifact: Artifact, batch: int = 1) -> tuple[Plan, Frozen]:
    """The plan and the frozen kernels that the artifact's file holds.

    Args:
        artifact: of a model quantized by ``weights_only``.
        batch: images at a time that the plan is for; the frozen numbers do not depend on it.

    Raises:
        ValueError: the model is quantized otherwise, or not at all.
    """
    if not is_quantized(artifact.model):
        raise ValueError(
            "tflite: variant='weights_only' needs a model that was trained or calibrated as "
            "quantize(model, weights_only()); export this one as float32, float16 or dynamic_int8"
        )
    plan = make_plan(artifact.model, artifact.variables, artifact.input_spec(batch))
    if not plan.rounds_kernels_alone:
        raise ValueError(
            "tflite: variant='weights_only' is of models quantized by weights_only(), and this one's "
            "activations are rounded too: export it as variant='int8'"
        )
    return plan, freeze(plan, artifact.variables)


def weights_only_file(
    plan: Plan,
    frozen: Frozen,
    backend: Backend,
    layout: Layout = USUAL,
    normalization: Normalization | None = None,
) -> tuple[bytes, Parity]:
    """A network of which only kernels are rounded as the bytes of a checked file, and what was compared.

    The file has the signature of every file, and no metadata.

    Args:
        plan: for the layout's batch.
        frozen: the kernels the file must hold.
        backend: the converter, jax2tf or litert.
        layout: as of float files; ``int4`` packs kernels of at most 4 bits.
        normalization: of the pixels the file takes; None for a file that takes what the model takes.

    Raises:
        ValueError: an unknown back end, a plan for another batch or of a network of integers, or a network
            without a kernel for int4.
        ImportError: the back end is not installed; names the extra that brings it.
        ConversionError: the converter failed, or wrote a file that the interpreter refuses.
        ConstraintError, ParityError: the converter wrote a file that is not the frozen network, or does not
            answer as it does.
    """
    require_backend(backend)
    layout = layout.of("weights_only")
    _require_fitting(plan, frozen, layout)
    part = None if layout.embedding is None else features.before(plan, layout.embedding)
    also = () if part is None else (part.output,)
    function = _function(plan, frozen, normalization, also)
    inputs, outputs = _inputs(plan, layout, normalization), (OUTPUT, *([EMBEDDING] if also else []))
    convert = jax2tf.convert_annotated if backend == "jax2tf" else litert.convert
    content = repair.narrow_paddings(convert(function, inputs, outputs))
    if layout.int4:
        content = packed(content, plan, frozen)
    if part is not None:
        content = signatures.split(content)
        float_kernels.check(flatbuffer.read(content, EMBEDDING), part, frozen)
    checked = float_kernels.check(content, plan, frozen)
    tried = answers.trial(function, inputs, outputs)
    answers.check(content, tried, answers.TOLERANCES["weights_only"])
    return content, checked


def packed(content: bytes, plan: Plan, frozen: Frozen) -> bytes:
    """The file with every kernel of at most four bits stored two to a byte.

    Any operator will do: DEQUANTIZE makes floats of them before it runs.
    """
    file = flatbuffer.read(content)
    pairs, _ = float_kernels.correspond(file, plan, frozen)
    narrow = {
        op.inputs[float_kernels.KERNEL]
        for name, op in pairs.items()
        if op is not None and frozen.kernels[name].bits <= int4.BITS
    }
    model = flatbuffer.load(bytearray(content))
    graph = model.subgraphs[0]
    for index in sorted(narrow):
        kernel = int4.pack(file.tensors[index].data)
        editing.store(model, graph.tensors[index], kernel.tobytes())
        graph.tensors[index].type = editing.INT4
    for op, read in zip(graph.operators, file.ops, strict=True):
        if read.name == "DEQUANTIZE" and read.inputs[0] in narrow:
            editing.require_version(model, op, INT4_VERSION)
    return flatbuffer.dump(model)


def storage(content: bytes, plan: Plan, frozen: Frozen) -> dict[str, str]:
    """How a file stores the kernel of each group, ``int4`` or ``int8``, by the group's name."""
    file = flatbuffer.read(content)
    pairs, _ = float_kernels.correspond(file, plan, frozen)
    return {
        name: f"int{file.tensors[op.inputs[float_kernels.KERNEL]].bits}"
        for name, op in pairs.items()
        if op is not None
    }


def _require_fitting(plan: Plan, frozen: Frozen, layout: Layout) -> None:
    if not plan.rounds_kernels_alone:
        raise ValueError(
            "weights_only_file: the plan is of a network of integers: write it by integer_file"
        )
    batch = plan.program.shape(plan.program.input)[0]
    if batch != layout.batch:
        raise ValueError(
            f"Layout: batch is {layout.batch}, and the plan is for {batch}: make it for as many"
        )
    if layout.int4 and all(kernel.bits > int4.BITS for kernel in frozen.kernels.values()):
        raise ValueError(
            "int4: no kernel of the network has at most 4 bits; quantize it with "
            "quantize.weights_only(quantize.per_channel(bits=4)), or export it without int4"
        )


def _function(
    plan: Plan, frozen: Frozen, normalization: Normalization | None, also: tuple[Value, ...]
) -> Callable[[Array], Array | tuple[Array, ...]]:
    """The network on frozen kernels, each marked with its grid for the converter."""

    def function(image: Array) -> Array | tuple[Array, ...]:
        inputs = image if normalization is None else normalized(normalization, image)
        values = _values(plan, Annotations(plan, frozen), inputs)
        outputs = tuple(values[value] for value in (plan.output, *also))
        return outputs if also else outputs[0]

    return function


def _values(plan: Plan, hooks: Annotations, inputs: Array) -> dict[Value, Array]:
    """Every value between the plan's groups, with a barrier before and behind each kernel.

    TensorFlow's converter multiplies a mean's 1 / N into the kernel that follows, and rounds it once more.
    Converters take barriers out when all else is done.
    """
    values = {plan.program.input: inputs}
    for group in plan.groups:
        if isinstance(group, Weighted):
            before = {v: lax.optimization_barrier(values[v]) for v in group.inputs}
            results = lax.optimization_barrier(evaluate_group(plan, group, hooks, before))
        else:
            results = evaluate_group(plan, group, hooks, values)
        values.update(zip(group.outputs, results, strict=True))
    return values


def _inputs(
    plan: Plan, layout: Layout, normalization: Normalization | None
) -> jax.ShapeDtypeStruct:
    own = plan.program.types[plan.program.input]
    dtype = own.dtype if normalization is None else np.dtype(layout.input)
    return jax.ShapeDtypeStruct(own.shape, dtype)
