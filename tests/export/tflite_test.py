import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmini.compress.quantize import float_island, int8, quantize, simulate, weights_only
from jaxmini.data import Normalization
from jaxmini.evaluate.runtime import Kernels, tflite_integers, tflite_predict
from jaxmini.export import (
    Artifact,
    Exported,
    Layout,
    ParityError,
    describe_file,
    integer_form,
    litert,
    predict,
    tflite,
)
from jaxmini.export.distance import compare
from jaxmini.export.flatbuffer import read
from jaxmini.export.parity import check
from jaxmini.model import from_linen
from tests.export.conftest import make, quantized
from tests.export.upsampling_nets import Upsampling

Convert = Callable[[str, str], Exported]

# A conversion through TensorFlow takes the ten seconds that TensorFlow takes to start.
FLOATS = [
    ("float32", "jax2tf"),
    ("float32", "litert"),
    ("float16", "litert"),
    ("dynamic_int8", "litert"),
    pytest.param("float16", "jax2tf", marks=pytest.mark.slow),
    pytest.param("dynamic_int8", "jax2tf", marks=pytest.mark.slow),
]
BACKENDS = ["jax2tf", "litert"]


def simulated(artifact: Artifact, images: np.ndarray) -> np.ndarray:
    plan, frozen = integer_form(artifact, len(images))
    integers = (images.astype(np.int16) - 128).astype(np.int8)
    return np.asarray(jax.jit(partial(simulate, plan, frozen))(integers))


@pytest.mark.parametrize(("variant", "backend"), FLOATS)
def test_float_files_answer_as_the_model(
    variant: str, backend: str, convert: Convert, float_artifact: Artifact, images: np.ndarray
):
    exported = convert(variant, backend)
    expected = np.asarray(predict(float_artifact)(images))
    answers = tflite_predict(exported.path)(images)
    tolerance = 1e-5 if variant == "float32" else 1e-2
    assert np.abs(answers - expected).max() <= tolerance * np.abs(expected).max()
    assert describe_file(exported.path)["input"]["encoding"] == "pixel"


@pytest.mark.parametrize("backend", BACKENDS)
def test_integer_file_equals_the_simulation_bit_for_bit_on_xnnpack(
    backend: str, convert: Convert, integer_artifact: Artifact, images: np.ndarray
):
    answers = tflite_integers(convert("int8", backend).path)(images)
    distance = compare(simulated(integer_artifact, images), answers)
    assert distance.largest == 0
    assert len(np.unique(answers)) > 20  # the answers say something


@pytest.mark.parametrize("kernels", [Kernels.OPTIMIZED, Kernels.REFERENCE])
@pytest.mark.parametrize("backend", BACKENDS)
def test_integer_file_is_near_the_simulation_on_other_kernels(
    backend: str, kernels: Kernels, convert: Convert, integer_artifact: Artifact, images: np.ndarray
):
    answers = tflite_integers(convert("int8", backend).path, kernels=kernels)(images)
    assert compare(simulated(integer_artifact, images), answers).largest <= 4


def test_integer_file_is_near_the_quantized_model(
    convert: Convert, integer_artifact: Artifact, images: np.ndarray
):
    file = convert("int8", "litert").path
    step = describe_file(file)["output"]["scale"]
    difference = np.abs(
        tflite_predict(file)(images) - np.asarray(predict(integer_artifact)(images))
    )
    assert difference.max() <= 4 * step


def test_both_back_ends_store_the_same_integers(convert: Convert, integer_artifact: Artifact):
    plan, frozen = integer_form(integer_artifact)
    counts = {check(convert("int8", backend).path, plan, frozen) for backend in BACKENDS}
    assert len(counts) == 1
    ours, theirs = (read(convert("int8", backend).path) for backend in BACKENDS)
    assert ours.op_counts == theirs.op_counts
    stored = [
        sorted(t.data.tobytes() for t in file.tensors if t.data is not None and t.is_quantized)
        for file in (ours, theirs)
    ]
    assert stored[0] == stored[1]


def test_zero_gamma_of_a_residual_block_exports(convert: Convert, integer_artifact: Artifact):
    silent = integer_artifact.variables["params"]["BatchNorm_2"]["scale"]
    assert not silent.any()
    assert convert("int8", "litert").parity == convert("int8", "jax2tf").parity
    assert convert("int8", "litert").ops["ADD"] == 1


def test_concatenated_branches_and_average_pool(
    branched_artifact: Artifact, images: np.ndarray, tmp_path: Path
):
    exported = tflite(branched_artifact, tmp_path / "b.tflite", variant="int8", backend="litert")
    assert {"CONCATENATION", "AVERAGE_POOL_2D"} <= exported.ops.keys()
    answers = tflite_integers(exported.path)(images)
    assert compare(simulated(branched_artifact, images), answers).largest == 0


@pytest.mark.parametrize(
    ("variant", "backend"), [*FLOATS[:4], ("int8", "jax2tf"), ("int8", "litert")]
)
def test_the_file_describes_itself(
    variant: str, backend: str, convert: Convert, float_artifact: Artifact
):
    exported = convert(variant, backend)
    content = exported.path.read_bytes()
    description = describe_file(content)
    dtype = "int8" if variant == "int8" else "float32"
    assert description["labels"] == list(float_artifact.labels)
    assert description["normalization"] == dataclasses.asdict(float_artifact.normalization)
    assert description["variant"] == variant
    assert description["backend"] == backend
    assert description["provenance"] == {"made": "by a test"}
    assert description["input"]["shape"] == [1, 8, 8, 3]
    assert description["input"]["dtype"] == description["output"]["dtype"] == dtype
    assert exported.bytes == len(content)
    assert exported.sha256 == hashlib.sha256(content).hexdigest()
    assert exported.ops == read(content).op_counts
    json.dumps(description)


@pytest.mark.parametrize(("variant", "backend"), [("float32", "jax2tf"), ("int8", "litert")])
def test_signature_has_names(variant: str, backend: str, convert: Convert):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(convert(variant, backend).path))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["logits"]}
    }


def test_integer_input_is_the_pixel_grid(convert: Convert, integer_artifact: Artifact):
    described = describe_file(convert("int8", "litert").path)["input"]
    assert described["encoding"] == "pixel - 128"
    assert np.float32(described["scale"]) == np.float32(integer_artifact.normalization.scale)
    assert described["zero_point"] == integer_artifact.normalization.zero_point


def test_no_partial_file_is_left(convert: Convert):
    folder = convert("float32", "litert").path.parent
    assert not list(folder.glob("*.partial"))


def test_unknown_names_are_refused_with_the_nearest(float_artifact: Artifact, tmp_path: Path):
    with pytest.raises(ValueError, match=r"unknown variant 'int-8'.*did you mean 'int8'"):
        tflite(float_artifact, tmp_path / "x", variant="int-8")
    with pytest.raises(ValueError, match=r"unknown backend 'jaxtf'.*did you mean 'jax2tf'"):
        tflite(float_artifact, tmp_path / "x", backend="jaxtf")


def test_impossible_exports_are_refused(
    float_artifact: Artifact, integer_artifact: Artifact, tmp_path: Path
):
    path = tmp_path / "x.tflite"
    with pytest.raises(ValueError, match="needs a quantized model"):
        tflite(float_artifact, path, variant="int8", backend="litert")
    with pytest.raises(ValueError, match="export it as variant='int8'"):
        tflite(integer_artifact, path, variant="float32", backend="litert")
    other = dataclasses.replace(integer_artifact, normalization=Normalization(0.2, 0.3))
    with pytest.raises(ValueError, match="input grid"):
        tflite(other, path, variant="int8", backend="litert")
    assert not path.exists()


def test_ranges_that_saw_no_data_are_refused(integer_artifact: Artifact, tmp_path: Path):
    unseen = {
        site: {"low": np.float32(np.inf), "high": np.float32(-np.inf)}
        for site in integer_artifact.variables["quant"]
    }
    variables = integer_artifact.variables | {"quant": unseen}
    fresh = dataclasses.replace(integer_artifact, variables=variables)
    with pytest.raises(ValueError, match="seen"):
        tflite(fresh, tmp_path / "x.tflite", variant="int8", backend="litert")


@pytest.mark.parametrize(
    ("kernel", "stride", "variant", "backend"),
    [
        (3, 2, "float32", "litert"),
        (4, 3, "float32", "litert"),
        (4, 3, "float16", "litert"),
        (3, 2, "dynamic_int8", "litert"),
        pytest.param(3, 2, "float32", "jax2tf", marks=pytest.mark.slow),
        pytest.param(4, 3, "dynamic_int8", "jax2tf", marks=pytest.mark.slow),
    ],
)
def test_transposed_convolutions_of_float_files_are_those_of_the_model(
    kernel: int, stride: int, variant: str, backend: str, images: np.ndarray, tmp_path: Path
):
    model = from_linen(Upsampling(kernel, stride, classes=False))
    artifact = make(model, images, labels=())
    exported = tflite(artifact, tmp_path / "up.tflite", variant=variant, backend=backend)
    expected = np.asarray(predict(artifact)(images[:4]))
    answers = tflite_predict(exported.path)(images[:4])
    assert answers.shape == expected.shape
    tolerance = {"float32": 1e-5, "float16": 1e-2, "dynamic_int8": 5e-2}[variant]
    assert np.abs(answers - expected).max() <= tolerance * np.abs(expected).max()
    assert "TRANSPOSE_CONV" not in exported.ops


def test_islands_and_kernels_alone_with_transposed_convolutions_compute_the_model(
    images: np.ndarray, tmp_path: Path
):
    kept, model = (float_island("up"),), from_linen(Upsampling())
    for twin, variant in (
        (quantized(Upsampling(), int8(rules=kept)), "int8"),
        (quantize(model, weights_only()), "weights_only"),
        (quantize(model, weights_only(rules=kept)), "weights_only"),
    ):
        artifact, path = make(twin, images), tmp_path / "up.tflite"
        exported = tflite(artifact, path, variant=variant, backend="litert")
        expected = np.asarray(predict(artifact)(images))
        answers = tflite_predict(path)(images)
        step = describe_file(path)["output"].get("scale", 1e-4 * np.abs(expected).max())
        assert np.abs(answers - expected).max() <= 1.01 * step
        assert "TRANSPOSE_CONV" not in exported.ops


@pytest.mark.parametrize("variant", ["float32", "float16"])
def test_a_file_that_answers_otherwise_is_refused(
    variant: str, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The converter's own transposed convolution, behind a mean that hides the shape of its picture."""
    monkeypatch.setattr(litert, "without_spreading", lambda function, *_: function)
    artifact, path = make(from_linen(Upsampling()), images), tmp_path / "up.tflite"
    layout = Layout(embedding="head", batch=2)
    with pytest.raises(ParityError, match=r"(?s)logits: the largest.*embedding: the largest"):
        tflite(artifact, path, variant=variant, backend="litert", layout=layout)
    pictures = make(from_linen(Upsampling(classes=False)), images, labels=())
    with pytest.raises(ParityError, match="the file answers .*, the model "):
        tflite(pictures, path, variant="dynamic_int8", backend="litert")
    assert not path.exists()
