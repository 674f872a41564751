"""ONNX files: what they answer, what they store, and what is refused."""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import onnx as package
import onnxruntime
import pytest
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmini.compress.quantize import simulate
from jaxmini.evaluate.onnx_runtime import onnx_integers, onnx_predict
from jaxmini.export import (
    Artifact,
    describe_onnx,
    integer_form,
    onnx,
    predict,
)
from jaxmini.export.distance import Distance, compare
from tests.compress.quantize.quantize_nets import Bottlenecks
from tests.export.conftest import NORMALIZATION
from tests.export.onnx_nets import (
    AVERAGING,
    FUNCTIONS,
    IMAGES,
    NETS,
    SHAPE,
    Shapes,
    artifact_of,
    name_of,
)


def distance_of(artifact: Artifact, path: Path) -> list[Distance]:
    """From the simulation, in integer kernels and in floats."""
    plan, frozen = integer_form(artifact, len(IMAGES))
    integers = (IMAGES.astype(np.int16) - 128).astype(np.int8)
    expected = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(integers))
    return [
        compare(expected, onnx_integers(path, optimized=optimized)(IMAGES))
        for optimized in (True, False)
    ]


@pytest.mark.parametrize("net", [*NETS, AVERAGING, *FUNCTIONS], ids=name_of)
def test_a_float_file_answers_as_the_model(net: Callable, tmp_path: Path):
    artifact = artifact_of(net(), integer=False)
    path = onnx(artifact, tmp_path / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    for optimized in (True, False):
        answers = onnx_predict(path, optimized=optimized)(IMAGES)
        assert np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("net", NETS, ids=name_of)
def test_an_integer_file_equals_the_simulation(net: type, tmp_path: Path):
    artifact = artifact_of(net(), integer=True)
    path = onnx(artifact, tmp_path / "net.onnx", variant="int8").path
    assert [found.largest for found in distance_of(artifact, path)] == [0, 0]
    assert len(np.unique(onnx_integers(path)(IMAGES))) > 20  # the answers say something


def test_ties_of_an_average_pool_are_within_one_step(tmp_path: Path):
    artifact = artifact_of(AVERAGING(), integer=True)
    path = onnx(artifact, tmp_path / "net.onnx", variant="int8").path
    for found in distance_of(artifact, path):
        assert found.largest <= 1
        assert found.agreement >= 0.95


# Steps between the logits of a file and those simulated: a step of one group travels.
MOST = {"Attention": 3, "vit_tiny": 3}


@pytest.mark.parametrize("net", FUNCTIONS, ids=name_of)
def test_an_integer_file_of_functions_is_near_the_simulation(net: Callable, tmp_path: Path):
    artifact = artifact_of(net(), integer=True)
    path = onnx(artifact, tmp_path / "net.onnx", variant="int8").path
    for found in distance_of(artifact, path):
        assert found.largest <= MOST.get(name_of(net), 1)
        assert found.agreement >= 0.95


CONVOLUTION = st.fixed_dictionaries(
    {
        "kernel_size": st.tuples(st.integers(1, 4), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "kernel_dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "feature_group_count": st.sampled_from([1, 3]),
        "padding": st.sampled_from(["SAME", "VALID", ((2, 0), (1, 3))]),
    }
)


class Convolution(nn.Module):
    fields: dict[str, object]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Conv(6, **self.fields)(x).reshape(x.shape[0], -1)


@settings(max_examples=8)
@given(CONVOLUTION)
def test_any_convolution(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, object]):
    artifact = artifact_of(Convolution(FrozenDict(fields)), integer=False)
    path = onnx(artifact, tmp_path_factory.mktemp("file") / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    difference = np.abs(onnx_predict(path)(IMAGES) - expected).max()
    assert difference <= 1e-5 * np.abs(expected).max()


def test_the_runtime_computes_in_integers(tmp_path: Path):
    artifact = artifact_of(Bottlenecks(), integer=True)
    exported = onnx(artifact, tmp_path / "net.onnx", variant="int8")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(exported.path), options, providers=["CPUExecutionProvider"])
    ran = Counter(n.op_type for n in package.load(tmp_path / "optimized.onnx").graph.node)
    assert ran["QLinearConv"] == exported.ops["Conv"] == 14
    assert (ran["QLinearAdd"], ran["QLinearGlobalAveragePool"], ran["QGemm"]) == (3, 1, 1)
    assert (ran["QuantizeLinear"], ran["DequantizeLinear"]) == (0, 1)  # of the logits


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_batches_are_open_or_fixed(variant: str, tmp_path: Path):
    artifact = artifact_of(Shapes(), integer=variant == "int8")
    path = tmp_path / "net.onnx"
    expected = onnx_predict(onnx(artifact, path, variant=variant).path)(IMAGES)
    np.testing.assert_allclose(onnx_predict(path)(IMAGES[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    assert describe_onnx(path)["input"]["shape"] == [None, *SHAPE]
    onnx(artifact, path, variant=variant, batch=3)
    assert describe_onnx(path)["input"]["shape"] == [3, *SHAPE]
    np.testing.assert_allclose(onnx_predict(path)(IMAGES[:7]), expected[:7], rtol=1e-4, atol=1e-5)


class Mixing(nn.Module):
    """Examples stand beside one another for a while, and are told apart again."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1])
        rows = nn.Dense(4)(rows)
        return nn.Dense(2)(rows.reshape(x.shape[0], -1))


def test_what_mixes_the_batch_needs_a_fixed_one(tmp_path: Path):
    artifact = artifact_of(Mixing(), integer=False)
    with pytest.raises(
        ValueError, match=r"mixes the batch .*'reshape' in the module Mixing.*batch=1"
    ):
        onnx(artifact, tmp_path / "net.onnx")
    path = onnx(artifact, tmp_path / "net.onnx", batch=1).path
    np.testing.assert_allclose(onnx_predict(path)(IMAGES), predict(artifact)(IMAGES), atol=1e-5)


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_the_file_describes_itself(
    variant: str, float_artifact: Artifact, integer_artifact: Artifact, tmp_path: Path
):
    artifact = integer_artifact if variant == "int8" else float_artifact
    exported = onnx(artifact, tmp_path / "net.onnx", variant=variant)
    content = exported.path.read_bytes()
    assert exported.sha256 == hashlib.sha256(content).hexdigest()
    assert exported.bytes == len(content)
    again = onnx(artifact, tmp_path / "again.onnx", variant=variant)
    assert again.sha256 == exported.sha256
    assert not list(tmp_path.glob("*.partial"))
    model = package.load_model_from_string(content)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert exported.ops == Counter(node.op_type for node in model.graph.node)
    description = describe_onnx(content)
    assert description["labels"] == list(artifact.labels)
    assert description["normalization"] == {"mean": NORMALIZATION.mean, "std": NORMALIZATION.std}
    assert description["provenance"] == {"made": "by a test"}
    assert description["input"]["dtype"] == "uint8"
    assert ("scale" in description["output"]) == (variant == "int8")


def test_impossible_exports_are_refused(
    float_artifact: Artifact, integer_artifact: Artifact, tmp_path: Path
):
    path = tmp_path / "net.onnx"
    with pytest.raises(ValueError, match=r"unknown variant 'int-8'.*did you mean 'int8'"):
        onnx(integer_artifact, path, variant="int-8")
    with pytest.raises(ValueError, match="needs a quantized model"):
        onnx(float_artifact, path, variant="int8")
    with pytest.raises(ValueError, match="export it as variant='int8'"):
        onnx(integer_artifact, path)
    with pytest.raises(ValueError, match="batch is 0"):
        onnx(float_artifact, path, batch=0)
    assert not path.exists()


def test_files_that_are_none_are_refused(float_artifact: Artifact, tmp_path: Path):
    content = onnx(float_artifact, tmp_path / "net.onnx").path.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut.onnx: not an .onnx file, damaged"):
        describe_onnx(cut)
    with pytest.raises(FileNotFoundError, match=r"no file .*cuts\.onnx; did you mean .*cut\.onnx"):
        describe_onnx(tmp_path / "cuts.onnx")
    model = package.load_model_from_string(content)
    del model.metadata_props[:]
    with pytest.raises(ValueError, match="holds no 'jaxmini' metadata"):
        describe_onnx(model.SerializeToString())
    entry = model.metadata_props.add(key="jaxmini", value="{")
    for text in ("{", "[1]"):
        entry.value = text
        with pytest.raises(ValueError, match="metadata is damaged"):
            describe_onnx(model.SerializeToString())
    with pytest.raises(FileNotFoundError):
        describe_onnx(tmp_path / "nothing.onnx")
