"""A file as a network: what goes in and comes out, and every file that is not a classifier of pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini import data
from jaxmini.data import Normalization
from jaxmini.demo import network
from jaxmini.evaluate.runtime import tflite_integers, tflite_predict
from jaxmini.export import Artifact, flatbuffer, metadata, tflite
from jaxmini.model import from_linen
from tests.evaluate.conftest import without_metadata


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return data.digits().load().test.image[:24]


class Tail(nn.Module):
    """One dense layer, and a softmax, a reshape or a division by zero after it."""

    kind: str

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        scores = nn.Dense(4)(images.reshape(images.shape[0], -1))
        if self.kind == "infinite":
            return scores / (images[:, 0, 0] - images[:, 0, 0])
        return nn.softmax(scores) if self.kind == "softmax" else scores.reshape(-1, 2, 2)


def write(folder: Path, kind: str, shape: tuple[int, int, int] = (4, 4, 1)) -> Path:
    model = from_linen(Tail(kind))
    variables = model.init(jax.random.key(0), jnp.zeros((1, *shape)))
    artifact = Artifact(model, variables, (), Normalization(0.0, 1.0), shape)
    return tflite(artifact, folder / f"{kind}.tflite", backend="litert").path


def described(path: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The file with another description of itself."""
    description = metadata.describe_file(path)
    change(description)
    (folder / "changed.tflite").write_bytes(metadata.write(path.read_bytes(), description))
    return folder / "changed.tflite"


def test_an_integer_file(integer_path: Path, images: np.ndarray):
    found = network.read(integer_path)
    assert (found.name, found.shape, found.encoding) == ("int8.tflite", (8, 8, 1), "pixel - 128")
    assert found.labels == tuple("0123456789")
    assert found.provenance["stage"] == "net"
    assert not found.gives_probabilities
    answers = network.answers(found, images)
    assert answers.dtype == np.int8
    np.testing.assert_array_equal(answers, tflite_integers(integer_path)(images))
    # A test on answers that are all alike would prove nothing.
    assert len(np.unique(answers, axis=0)) == len(images)


def test_a_float_file(float_path: Path, images: np.ndarray):
    found = network.read(float_path)
    assert (found.encoding, found.scores.dtype) == ("pixel", np.float32)
    expected = tflite_predict(float_path)(images)
    np.testing.assert_array_equal(network.answers(found, images), expected)


def test_a_file_of_another_converter_has_numbers_for_classes(integer_path: Path, tmp_path: Path):
    path = tmp_path / "foreign.tflite"
    path.write_bytes(without_metadata(integer_path.read_bytes()))
    found = network.read(path)
    assert found.labels == tuple("0123456789")
    assert (found.description, found.provenance) == ({}, {})


def test_a_file_without_class_names_and_with_a_softmax(tmp_path: Path):
    found = network.read(write(tmp_path, "softmax"))
    assert found.labels == ("0", "1", "2", "3")
    assert found.gives_probabilities


def test_pictures_of_another_kind_are_refused(integer_path: Path, images: np.ndarray):
    found = network.read(integer_path)
    for wrong in (images[:, :7], images.astype(np.float32), images[..., 0]):
        with pytest.raises(ValueError, match=r"int8.tflite: expected uint8 pictures \[8, 8, 1\]"):
            network.answers(found, wrong)


def test_answers_that_are_not_finite_are_refused(tmp_path: Path):
    found = network.read(write(tmp_path, "infinite"))
    images = np.full((2, 4, 4, 1), 9, np.uint8)
    with pytest.raises(ValueError, match="infinite.tflite: its answer to picture 0 is not finite"):
        network.answers(found, images)


def test_what_is_no_classifier_of_pictures_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"its output is \[1, 2, 2\]; a demo needs scores"):
        network.read(write(tmp_path, "reshape"))
    with pytest.raises(ValueError, match=r"its input is \[1, 4, 4, 2\]; a demo needs pictures"):
        network.read(write(tmp_path, "softmax", (4, 4, 2)))


def test_a_damaged_file_is_refused(integer_path: Path, tmp_path: Path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(b"no model at all")
    with pytest.raises(ValueError, match="cut.tflite: not a .tflite file"):
        network.read(path)
    path.write_bytes(integer_path.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"cut.tflite"):
        network.read(path)
    with pytest.raises(FileNotFoundError):
        network.read(tmp_path / "missing.tflite")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("input"), "its metadata is damaged"),
        (lambda d: d.update(labels=3), "its metadata is damaged"),
        (lambda d: d["input"].update(encoding="pixel"), "its int8 input takes 'pixel'; damaged"),
        (lambda d: d.update(labels=["a", "b"]), "names 2 classes, and it has 10 outputs"),
    ],
)
def test_a_damaged_description_is_refused(
    change: Callable, message: str, integer_path: Path, tmp_path: Path
):
    with pytest.raises(ValueError, match=message):
        network.read(described(integer_path, tmp_path, change))


def test_a_description_that_is_no_record_is_refused(integer_path: Path, tmp_path: Path):
    model = flatbuffer.load(bytearray(integer_path.read_bytes()))
    (entry,) = (each for each in model.metadata if each.name == b"jaxmini")
    model.buffers[entry.buffer].data = np.frombuffer(json.dumps([1]).encode(), np.uint8)
    (tmp_path / "list.tflite").write_bytes(flatbuffer.dump(model))
    with pytest.raises(ValueError, match=r"list.tflite: its 'jaxmini' metadata is damaged"):
        network.read(tmp_path / "list.tflite")
