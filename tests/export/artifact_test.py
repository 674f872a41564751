import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxmini import record
from jaxmini.export import Artifact, load, onnx, predict, save, saved_model, stablehlo, tflite
from jaxmini.export.artifact import MANIFEST, VARIABLES
from jaxmini.model import Model, from_linen


def test_saved_and_loaded_artifact_answers_alike(
    integer_artifact: Artifact, images: np.ndarray, tmp_path: Path
):
    save(integer_artifact, tmp_path)
    loaded = load(tmp_path)
    assert loaded.labels == integer_artifact.labels
    assert loaded.normalization == integer_artifact.normalization
    assert loaded.input_shape == integer_artifact.input_shape
    assert loaded.provenance == integer_artifact.provenance
    assert jax.tree.structure(loaded.variables) == jax.tree.structure(integer_artifact.variables)
    for ours, theirs in zip(
        jax.tree.leaves(integer_artifact.variables), jax.tree.leaves(loaded.variables), strict=True
    ):
        assert theirs.dtype == ours.dtype
        np.testing.assert_array_equal(theirs, ours)
    np.testing.assert_array_equal(predict(loaded)(images), predict(integer_artifact)(images))


def test_predict_normalizes_pixels(float_artifact: Artifact, images: np.ndarray):
    inputs = float_artifact.normalization(jnp.asarray(images))
    expected, _ = float_artifact.model.apply(float_artifact.variables, inputs)
    logits = predict(float_artifact)(images)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_predict_refuses_images_of_another_kind(float_artifact: Artifact, images: np.ndarray):
    with pytest.raises(ValueError, match=r"uint8 images \[B, 8, 8, 3\], got float32"):
        predict(float_artifact)(images.astype(np.float32))
    with pytest.raises(ValueError, match=r"got uint8\[40, 4, 8, 3\]"):
        predict(float_artifact)(images[:, :4])


@pytest.mark.parametrize("name", [VARIABLES, MANIFEST])
@pytest.mark.parametrize("place", [0.3, 0.7])
def test_flipped_byte_is_refused_by_name(
    float_artifact: Artifact, tmp_path: Path, name: str, place: float
):
    save(float_artifact, tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=f"(?s){name}.*: bring the file back from a copy, or train it"
    ):
        load(tmp_path)


def test_missing_parts_are_told(float_artifact: Artifact, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no artifact"):
        load(tmp_path)
    save(float_artifact, tmp_path)
    (tmp_path / VARIABLES).unlink()
    with pytest.raises(FileNotFoundError, match=VARIABLES):
        load(tmp_path)


def test_saving_again_replaces_and_leaves_nothing_else(
    float_artifact: Artifact, integer_artifact: Artifact, tmp_path: Path
):
    save(float_artifact, tmp_path)
    save(integer_artifact, tmp_path)
    assert "quant" in load(tmp_path).variables
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST, VARIABLES}


def rewrite(folder: Path, **changes: object) -> None:
    """Write a manifest of other entries, with the digest they should have."""
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    del manifest["digest"]
    manifest["digest"] = record.digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_format_of_another_version_is_refused(float_artifact: Artifact, tmp_path: Path):
    save(float_artifact, tmp_path)
    rewrite(tmp_path, format=99)
    with pytest.raises(ValueError, match="format 99"):
        load(tmp_path)


def test_a_model_that_nothing_defines_is_told_with_the_artifact(
    float_artifact: Artifact, tmp_path: Path
):
    save(float_artifact, tmp_path)
    rewrite(tmp_path, model={"name": "nowhere:Net"})
    with pytest.raises(ImportError, match=f"artifact {tmp_path}: nowhere:Net is not to be found"):
        load(tmp_path)


class Half(nn.Module):
    """Variables of a dtype that numpy files do not know."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(10, param_dtype=jnp.bfloat16, dtype=jnp.float32)(x.mean((1, 2)))


def test_bfloat16_variables_survive(float_artifact: Artifact, tmp_path: Path):
    model = from_linen(Half())
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    artifact = dataclasses.replace(float_artifact, model=model, variables=variables)
    kernel = load(save(artifact, tmp_path)).variables["params"]["Dense_0"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel, variables["params"]["Dense_0"]["kernel"])


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x[x > 0]


def test_a_model_of_unknown_sizes_or_another_models_variables_are_told(float_artifact: Artifact):
    with pytest.raises(
        ValueError, match="Artifact: the module Masked computes a shape, .*jnp.where"
    ):
        dataclasses.replace(float_artifact, model=from_linen(Masked()))
    with pytest.raises(
        ValueError,
        match=r"Artifact: the variables .* params/Dense_0/kernel has the shape \(8, 10\), and not \(3, 10\)",
    ):
        dataclasses.replace(float_artifact, model=from_linen(Half()))


def test_bad_artifacts_are_refused(float_artifact: Artifact, tmp_path: Path):
    with pytest.raises(ValueError, match="3 labels need logits"):
        dataclasses.replace(float_artifact, labels=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"input_shape is \(8, 8\)"):
        dataclasses.replace(float_artifact, input_shape=(8, 8))
    for shape in ((None, 8, 3), (8, -1, 3), (8, 0, 3), (8.0, 8, 3), ("8", 8, 3)):
        with pytest.raises(
            ValueError, match=r"input_shape is \(.*, expected \(H, W, C\), three numbers"
        ):
            dataclasses.replace(float_artifact, input_shape=shape)
    nameless = Model(float_artifact.model.init, lambda v, x, **_: float_artifact.model.apply(v, x))
    with pytest.raises(TypeError, match="lambda"):
        save(dataclasses.replace(float_artifact, model=nameless), tmp_path)


def test_labels_are_names_and_no_text(float_artifact: Artifact):
    with pytest.raises(
        TypeError, match="Artifact: labels is the text 'abcdefghij', expected names"
    ):
        dataclasses.replace(float_artifact, labels="abcdefghij")


@pytest.mark.parametrize("make", [tflite, onnx, saved_model, stablehlo, save])
def test_a_model_is_no_artifact(make: Callable, float_artifact: Artifact, tmp_path: Path):
    with pytest.raises(
        TypeError, match=rf"^{make.__name__}: expected an Artifact, got Model; of a Model it is Art"
    ):
        make(float_artifact.model, tmp_path / "made")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="^predict: expected an Artifact, got dict"):
        predict(float_artifact.variables)


@pytest.mark.parametrize("write", [tflite, stablehlo, onnx, saved_model])
def test_numbers_that_are_none_are_not_exported(
    write: Callable, float_artifact: Artifact, tmp_path: Path
):
    head = float_artifact.variables["params"]["Dense_0"]
    bias = np.array(head["bias"])
    bias[:2] = np.nan
    params = float_artifact.variables["params"] | {"Dense_0": {**head, "bias": bias}}
    variables = dict(float_artifact.variables) | {"params": params}
    broken = dataclasses.replace(float_artifact, variables=variables)
    message = f"^{write.__name__}: 2 of the 10 numbers of params/Dense_0/bias are NaN"
    with pytest.raises(ValueError, match=message):
        write(broken, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
