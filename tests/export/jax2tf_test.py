"""jax2tf: what TensorFlow's process is given for each kind of file; TensorFlow itself is not run."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.export import converter, jax2tf

IMAGE = jax.ShapeDtypeStruct((2, 3), np.dtype(np.float32))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the child would be asked for, its program called again by JAX."""
    found: dict[str, Any] = {}

    def run(script: Path, folder: Path, options: dict) -> None:
        found.update(options, script=script, files=sorted(f.name for f in folder.iterdir()))
        if (folder / "program.jax").exists():
            found["program"] = jax.export.deserialize(
                bytearray((folder / "program.jax").read_bytes())
            )
        if (folder / "variables.npz").exists():
            found["variables"] = dict(np.load(folder / "variables.npz"))
        (folder / "model.tflite").write_bytes(b"a file")

    monkeypatch.setattr(converter, "run", run)
    monkeypatch.setattr(converter, "require", lambda module, extra: None)
    return found


@pytest.mark.parametrize("options", [{}, {"float16": True}, {"dynamic_int8": True}])
def test_a_float_file_is_asked_for_as_it_is_wanted(asked: dict[str, Any], options: dict):
    assert jax2tf.convert(lambda x: jnp.tanh(x).sum(1), IMAGE, **options) == b"a file"
    assert asked["files"] == ["program.jax"]
    assert asked["tflite"] == {"strict": False, "float16": False, "dynamic_int8": False} | options
    assert (asked["input_shape"], asked["input_dtype"]) == ([2, 3], "float32")
    assert (asked["outputs"], asked["output_shapes"]) == (["logits"], [[2]])
    assert asked["output_dtypes"] == ["float32"]
    x = np.float32([[1, 2, 3], [0, 0, -1]])
    np.testing.assert_allclose(asked["program"].call(x), np.tanh(x).sum(1), rtol=1e-6)


def test_an_annotated_file_is_of_stablehlo_and_strict(asked: dict[str, Any]):
    def function(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x, x.astype(jnp.int8)[:, :1]

    assert jax2tf.convert_annotated(function, IMAGE, ("logits", "embedding")) == b"a file"
    assert asked["files"] == ["program.stablehlo"]
    assert asked["tflite"] == {"strict": True, "float16": False, "dynamic_int8": False}
    assert asked["output_shapes"] == [[2, 3], [2, 1]]
    assert asked["output_dtypes"] == ["float32", "int8"]


def test_a_saved_model_has_its_variables_beside_a_program_of_any_batch(
    asked: dict[str, Any], tmp_path: Path
):
    variables = {"params": {"b": np.float32([1, 2]), "w": np.ones((3, 2), np.float32)}}

    def function(variables: dict, x: jax.Array) -> jax.Array:
        return x @ variables["params"]["w"] + variables["params"]["b"][None]

    jax2tf.saved_model(function, variables, IMAGE, tmp_path / "new" / "model")
    assert (tmp_path / "new" / "model").is_dir()
    assert asked["files"] == ["program.jax", "variables.npz"]
    assert asked["saved_model"] == str(tmp_path / "new" / "model")
    assert asked["input_shape"] == [None, 3]
    assert "tflite" not in asked
    leaves = [asked["variables"][f"{index:05d}"] for index in range(2)]
    assert len(asked["variables"]) == 2
    for count in (1, 4):
        x = np.ones((count, 3), np.float32)
        np.testing.assert_allclose(asked["program"].call(leaves, x), function(variables, x))


def test_annotated_conversion_needs_tensorflow_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    image = jax.ShapeDtypeStruct((1, 4), np.dtype(np.float32))
    with pytest.raises(ImportError, match="jax2tf"):
        jax2tf.convert_annotated(lambda x: x, image)
    with pytest.raises(ImportError, match="jax2tf"):
        jax2tf.saved_model(lambda v, x: x, {}, image, tmp_path)
