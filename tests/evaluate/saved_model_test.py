"""A SavedModel as a Predict: what its process is asked, and on request what TensorFlow answers."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxmini.evaluate.saved_model import RUNNER, saved_model_predict
from jaxmini.export import Artifact, converter, predict, saved_model
from jaxmini.export.converter import ConversionError
from jaxmini.export.saved_model import DESCRIPTION
from tests.export.conftest import SHAPE


# Whatever runs TensorFlow takes the ten seconds that it takes to start, each time.
@pytest.fixture(scope="module")
def folder(float_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(float_artifact, tmp_path_factory.mktemp("saved") / "model")


@pytest.mark.slow
def test_a_saved_model_answers_as_the_model_for_any_batch(
    folder: Path, float_artifact: Artifact, pictures: np.ndarray
):
    many = np.tile(pictures, (13, 1, 1, 1))[:257]  # one more than the child takes at a time
    expected = predict(float_artifact)(many)
    answers = saved_model_predict(folder)(many)
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_folder_without_its_graph_is_refused(folder: Path, pictures: np.ndarray, tmp_path: Path):
    (tmp_path / DESCRIPTION).parent.mkdir()
    (tmp_path / DESCRIPTION).write_text((folder / DESCRIPTION).read_text())
    with pytest.raises(
        ConversionError, match=r"(?s)run_saved_model.*SavedModel file does not exist"
    ):
        saved_model_predict(tmp_path)(pictures)


def described(folder: Path) -> Path:
    """A folder that says what a SavedModel is like, and holds none."""
    path = folder / DESCRIPTION
    path.parent.mkdir()
    text = {
        "signature": "serving_default",
        "input": {"name": "image", "shape": [None, *SHAPE]},
        "output": {"name": "logits"},
    }
    path.write_text(json.dumps(text))
    return folder


def test_the_child_is_asked_for_all_pictures_at_once(tmp_path: Path, monkeypatch):
    asked, folders = [], []

    def run(script: Path, folder: Path, options: dict) -> None:
        asked.append((script, options))
        folders.append(folder)
        images = np.load(folder / "images.npy")
        np.save(folder / "logits.npy", images.mean((1, 2)).astype(np.float32))

    monkeypatch.setattr(converter, "run", run)
    monkeypatch.setattr(converter, "require", lambda module, extra: None)
    answer = saved_model_predict(described(tmp_path))
    pictures = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    np.testing.assert_allclose(answer(pictures), pictures.mean((1, 2)), rtol=1e-6)
    assert asked == [
        (
            RUNNER,
            {
                "saved_model": str(tmp_path.resolve()),
                "signature": "serving_default",
                "input": "image",
                "output": "logits",
            },
        )
    ]
    assert RUNNER.exists()
    assert not folders[0].exists()


def test_what_is_none_is_refused(tmp_path: Path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no SavedModel that jaxmini wrote"):
        saved_model_predict(tmp_path)
    monkeypatch.setattr(converter, "require", lambda module, extra: None)
    answer = saved_model_predict(described(tmp_path))
    with pytest.raises(ValueError, match=r"expected uint8 images \[B, 8, 8, 3\], got float64"):
        answer(np.zeros((2, *SHAPE)))
    with pytest.raises(ValueError, match=r"got uint8\[2, 8, 3\]"):
        answer(np.zeros((2, 8, 3), np.uint8))
