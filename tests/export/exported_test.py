"""Serialized programs: they answer as the model, without its code, for any batch and on named platforms."""

import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.export import Artifact, describe_stablehlo, load_stablehlo, predict, stablehlo
from jaxmini.export.exported import MANIFEST, PROGRAM
from jaxmini.model import from_linen
from tests.export.conftest import LABELS, NORMALIZATION, SHAPE, make, quantized


@pytest.mark.parametrize("batch", [None, 40])
@pytest.mark.parametrize("platforms", [None, ("cpu", "cuda", "tpu")])
def test_a_program_answers_as_the_model(
    batch: int | None,
    platforms: tuple[str, ...] | None,
    float_artifact: Artifact,
    images: np.ndarray,
    tmp_path: Path,
):
    folder = stablehlo(float_artifact, tmp_path / "p", platforms=platforms, batch=batch)
    expected = np.asarray(predict(float_artifact)(images))
    run = load_stablehlo(folder)
    np.testing.assert_allclose(run(images), expected, rtol=1e-5, atol=1e-6)
    assert b".py" not in (folder / PROGRAM).read_bytes()  # no place of this machine is in it
    if batch is None:
        np.testing.assert_allclose(run(images[:3]), expected[:3], rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(ValueError, match=r"expected uint8 images \[40, 8, 8, 3\]"):
            run(images[:3])


def test_a_quantized_model_keeps_its_roundings(
    integer_artifact: Artifact, images: np.ndarray, tmp_path: Path
):
    folder = stablehlo(integer_artifact, tmp_path / "p")
    answers = np.asarray(load_stablehlo(folder)(images))
    np.testing.assert_allclose(answers, predict(integer_artifact)(images), atol=1e-6)


ALONE = """
import sys
import jax, numpy
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
numpy.save(sys.argv[3], program.call(numpy.load(sys.argv[2])))
assert not [name for name in sys.modules if name.startswith(("jaxmini", "flax"))]
"""


def test_a_program_needs_jax_alone(float_artifact: Artifact, images: np.ndarray, tmp_path: Path):
    folder = stablehlo(float_artifact, tmp_path / "p")
    np.save(tmp_path / "in.npy", images)
    arguments = [folder / PROGRAM, tmp_path / "in.npy", tmp_path / "out.npy"]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True, cwd=tmp_path)
    expected = predict(float_artifact)(images)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5, atol=1e-6)


def test_the_manifest_says_how_and_with_what(float_artifact: Artifact, tmp_path: Path):
    found = describe_stablehlo(stablehlo(float_artifact, tmp_path / "p", platforms=("cpu",)))
    assert found["labels"] == list(LABELS)
    assert found["normalization"] == {"mean": NORMALIZATION.mean, "std": NORMALIZATION.std}
    assert found["input"]["shape"] == [None, *SHAPE]
    assert found["output"] == {"name": "logits", "shape": [None, 10], "dtype": "float32"}
    assert found["platforms"] == ["cpu"]
    assert found["versions"]["jax"] == jax.__version__
    assert int(found["versions"]["stablehlo"].split(".")[0]) >= 1
    assert found["provenance"] == {"made": "by a test"}


def test_a_program_for_another_platform_is_not_run(
    float_artifact: Artifact, images: np.ndarray, tmp_path: Path
):
    folder = stablehlo(float_artifact, tmp_path / "p", platforms=("tpu",))
    with pytest.raises(ValueError, match="tpu"):
        load_stablehlo(folder)(images)


class Counting(nn.Module):
    """A model that uses how many images it is given, as a number."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(10)(x.mean((1, 2))) * jnp.float32(np.sqrt(int(x.shape[0])))


def test_a_model_of_a_fixed_batch(images: np.ndarray, tmp_path: Path):
    artifact = make(from_linen(Counting()), images)
    with pytest.raises(ValueError, match=r"any number of images; .*batch=1"):
        stablehlo(artifact, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    folder = stablehlo(artifact, tmp_path / "p", batch=40)
    answers = load_stablehlo(folder)(images)
    np.testing.assert_allclose(answers, predict(artifact)(images), rtol=1e-5, atol=1e-6)


def test_a_model_that_asks_for_its_batch_needs_a_fixed_one(images: np.ndarray, tmp_path: Path):
    class Asking(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(10)(x.mean((1, 2)) if len(x) > 1 else x[:, 0, 0])

    artifact = make(from_linen(Asking()), images)
    with pytest.raises(ValueError, match=r"any number of images; .*batch=1"):
        stablehlo(artifact, tmp_path / "p")
    stablehlo(artifact, tmp_path / "p", batch=1)


def test_a_mask_made_for_the_batch_needs_a_fixed_one(images: np.ndarray, tmp_path: Path):
    class Masked(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            tokens = x.reshape(x.shape[0], -1, 8)
            mask = nn.make_causal_mask(jnp.ones(tokens.shape[:2], jnp.int32))
            return nn.Dense(10)(nn.MultiHeadAttention(2)(tokens, mask=mask).mean(1))

    artifact = make(quantized(Masked()), images)
    with pytest.raises(ValueError, match=r"any number of images; .*batch=1"):
        stablehlo(artifact, tmp_path / "p")
    stablehlo(artifact, tmp_path / "p", batch=1)


def test_slices_of_a_quantized_model_take_any_batch(images: np.ndarray, tmp_path: Path):
    class Sliced(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(10)(nn.Conv(4, (3, 3))(x)[:, ::2].mean((1, 2)))

    artifact = make(quantized(Sliced()), images)
    run = load_stablehlo(stablehlo(artifact, tmp_path / "p"))
    for batch in (1, 3):
        np.testing.assert_allclose(
            run(images[:batch]), predict(artifact)(images[:batch]), rtol=1e-5, atol=1e-6
        )


def test_bad_arguments_are_refused(float_artifact: Artifact, images: np.ndarray, tmp_path: Path):
    with pytest.raises(ValueError, match=r"unknown platform 'cudda'.*did you mean 'cuda'"):
        stablehlo(float_artifact, tmp_path / "p", platforms=("cudda",))
    with pytest.raises(ValueError, match="platforms is empty"):
        stablehlo(float_artifact, tmp_path / "p", platforms=())
    with pytest.raises(ValueError, match="batch is 0"):
        stablehlo(float_artifact, tmp_path / "p", batch=0)
    run = load_stablehlo(stablehlo(float_artifact, tmp_path / "p"))
    with pytest.raises(ValueError, match=r"expected uint8 images \[B, 8, 8, 3\], got float32"):
        run(images.astype(np.float32))


def test_changed_programs_are_refused(float_artifact: Artifact, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no program"):
        load_stablehlo(tmp_path)
    folder = stablehlo(float_artifact, tmp_path / "p")
    program = folder / PROGRAM
    program.write_bytes(program.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(ValueError, match="its SHA-256 is not the one"):
        load_stablehlo(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ValueError, match="format 99; this version reads 1"):
        load_stablehlo(folder)
    (folder / MANIFEST).write_text("[]")
    with pytest.raises(ValueError, match="damaged"):
        load_stablehlo(folder)
