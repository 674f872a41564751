"""Ready: whatever can be known to fail is found here, before an hour has been spent on training.

Only shapes are computed; the errors say what to write instead.
"""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize import make_plan
from jaxmini.compress.quantize.packing import is_packable
from jaxmini.compress.quantize.plan import Plan
from jaxmini.data import Dataset, Normalization
from jaxmini.export import arena, converter, custom_calls, features, int4
from jaxmini.export.lowering import lower
from jaxmini.export.onnx_file import require_forms
from jaxmini.model import Variables
from jaxmini.run.formats import Onnx
from jaxmini.run.gates import asks_for_micro, max_accuracy_drop
from jaxmini.run.outcome import transfer
from jaxmini.run.rehearsal import failing, rehearse
from jaxmini.run.stage import Contrastive, Distill, Export, PostTraining, Recipe, Stage
from jaxmini.run.variants import TRAINED
from jaxmini.state import Array

# What each back end imports to write a file and to run it, and the extra that brings it.
INTERPRETER = ("ai_edge_litert", "flatbuffers")
BACKENDS = {
    "jax2tf": (("tensorflow", *INTERPRETER), "jax2tf"),
    "litert": (("litert_converter", *INTERPRETER), "litert"),
    "onnx": (("onnx", "onnxruntime"), "onnx"),
    "saved_model": (("tensorflow",), "jax2tf"),
    "stablehlo": ((), ""),
}


def require(recipe: Recipe, normalization: Normalization, devices: int) -> None:
    """See that the recipe can be run to its end.

    Args:
        recipe: to be run.
        normalization: of its networks.
        devices: how many share a batch.

    Raises:
        ImportError: an exporter is not installed; names the extra that brings it.
        ValueError: data, batch size, model or start of a stage do not fit together, or a stage cannot
            make an update: its loss reads what its step does not provide, say; or a file cannot have what the
            network computes.
    """
    _require_packages(recipe)
    # Of each stage's float model, and of the network it trains, which may be one of integers.
    variables: dict[str, Variables] = {}
    networks: dict[str, Variables] = {}
    for stage in recipe.stages:
        dataset = stage.data.load()
        _require_pictures(stage, dataset, devices)
        variables[stage.name] = _require_model(stage, dataset)
        networks[stage.name] = _require_network(
            stage, dataset, normalization, variables[stage.name]
        )
        if stage.start is not None:
            transfer(variables[stage.name], variables[stage.start.name], stage)
        for export in recipe.exports:
            if export.stage == stage:
                _require_form(export, dataset, normalization, variables[stage.name])
        frozen = networks[stage.teacher.name] if isinstance(stage, Distill) else {}
        rehearse(stage, dataset, normalization, variables[stage.name], frozen)
    if not len(dataset.test):
        raise ValueError(
            f"{dataset.name}, data of the last stage, has no test pictures to measure on"
        )
    for gate in recipe.gates:
        if isinstance(gate, max_accuracy_drop):
            _require_same_test(gate.below, dataset)


def _require_packages(recipe: Recipe) -> None:
    """See that what writes and runs each export is installed."""
    for export in recipe.exports:
        modules, extra = BACKENDS[export.backend]
        for module in modules:
            converter.require(module, extra)
        if asks_for_micro(recipe.gates, export):
            converter.require(arena.PACKAGE, arena.EXTRA)


def _require_form(
    export: Export, dataset: Dataset, normalization: Normalization, variables: Variables
) -> None:
    """See that a file can hold the network of its stage."""
    if isinstance(export, Onnx):
        images = jax.ShapeDtypeStruct((2, *dataset.train.shape), jnp.float32)
        plan = make_plan(export.stage.network(normalization), variables, images)
        require_forms(plan, variables)
    _require_layout(export, dataset, normalization, variables)
    if export.backend in get_args(converter.Backend) and export.variant not in TRAINED:
        _require_operations(export, dataset, variables)


def _require_layout(
    export: Export, dataset: Dataset, normalization: Normalization, variables: Variables
) -> None:
    """See that the network has the head and the kernels that a file's layout speaks of."""
    layout, stage = export.layout, export.stage
    images = jax.ShapeDtypeStruct((1, *dataset.train.shape), jnp.float32)
    if export.variant in TRAINED and (layout.int4 or layout.embedding is not None):
        plan = make_plan(stage.network(normalization), variables, images)
        if layout.int4:
            _require_narrow_kernels(export, plan)
        if layout.embedding is not None:
            features.before(plan, layout.embedding)
    elif layout.embedding is not None:
        apply = stage.float_model().apply

        def both(variables: Variables, image: Array) -> tuple[Array, Array]:
            return features.with_features(lambda x: apply(variables, x)[0], layout.embedding)(image)

        jax.eval_shape(both, variables, images)


def _require_narrow_kernels(export: Export, plan: Plan) -> None:
    """See that a file has a kernel to store as int4."""
    scheme = TRAINED[export.variant].__name__
    narrow = [group for group in plan.weighted if plan.kernel(group).bits <= int4.BITS]
    if not narrow:
        raise ValueError(
            f"export {export.file_name}: int4=True, and stage {export.stage.name!r} has no kernel of at most "
            f"4 bits: give it quantize={scheme}(kernel=per_channel(bits=4)), or a rule for some of them"
        )
    if not any(is_packable(plan, group) for group in narrow):
        names = ", ".join(group.name for group in narrow)
        raise ValueError(
            f"export {export.file_name}: int4=True, and the kernels of at most 4 bits that stage "
            f"{export.stage.name!r} has ({names}) are of depthwise convolutions or beside int16 activations, "
            "which no interpreter computes from int4: narrow others, or leave int4 out"
        )


def _require_operations(export: Export, dataset: Dataset, variables: Variables) -> None:
    """See that a .tflite file can have what a float network computes."""
    apply = export.stage.float_model().apply
    images = jax.ShapeDtypeStruct((1, *dataset.train.shape), jnp.float32)
    lowered = lower(lambda variables, images: apply(variables, images)[0], variables, images)
    with failing(export.stage, f"export {export.file_name}"):
        custom_calls.require_none(lowered)


def _require_same_test(below: Stage, dataset: Dataset) -> None:
    """Files answer the test pictures of the last stage; a stage is measured on its own."""
    ours, theirs = below.data.load().test, dataset.test
    same = np.array_equal(ours.image, theirs.image) and np.array_equal(ours.label, theirs.label)
    if not same:
        raise ValueError(
            f"gate max_accuracy_drop below stage {below.name!r}: its test pictures are not those of "
            f"{dataset.name}, data of the last stage, on which files are measured; give a stage with "
            "the same test pictures"
        )


def _require_pictures(stage: Stage, dataset: Dataset, devices: int) -> None:
    where = f"stage {stage.name!r}"
    if stage.labelled:
        dataset.train.require_labels(where)
    if not isinstance(stage, Contrastive):
        dataset.test.require_labels(f"{where}, test pictures")
    if isinstance(stage, PostTraining):  # which has no batches to train on
        return
    if stage.batch_size > len(dataset.train):
        raise ValueError(
            f"{where}: batch_size {stage.batch_size} is more than the {len(dataset.train):,} pictures "
            f"of {dataset.name}"
        )
    if stage.batch_size % devices:
        near = max(devices, stage.batch_size // devices * devices)
        raise ValueError(
            f"{where}: batch_size {stage.batch_size} does not divide among {devices} devices; "
            f"use a multiple of {devices}, {near} say"
        )


def _require_model(stage: Stage, dataset: Dataset) -> Variables:
    """Shapes of the float model's variables, once it is known to give what the stage needs."""
    images = jax.ShapeDtypeStruct((1, *dataset.train.shape), jnp.float32)
    with failing(stage, "model"):
        model = stage.float_model()
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        outputs, _ = jax.eval_shape(model.apply, variables, images)
    expected = (1, len(dataset.labels))
    if not isinstance(stage, Contrastive) and getattr(outputs, "shape", None) != expected:
        raise ValueError(
            f"stage {stage.name!r}: its model gives {getattr(outputs, 'shape', outputs)} for one picture, "
            f"and the {len(dataset.labels)} classes of {dataset.name} need logits {expected}"
        )
    return variables


def _require_network(
    stage: Stage, dataset: Dataset, normalization: Normalization, floats: Variables
) -> Variables:
    """Shapes of the variables of the network that is trained; refuses what has no integer form."""
    if stage.quantize is None:
        return floats
    images = jax.ShapeDtypeStruct((1, *dataset.train.shape), jnp.float32)
    with failing(stage, "model"):
        return jax.eval_shape(stage.network(normalization).init, jax.random.key(0), images)
