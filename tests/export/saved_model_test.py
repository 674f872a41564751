import json
from pathlib import Path

import numpy as np
import pytest

from jaxmini.evaluate.saved_model import saved_model_predict
from jaxmini.export import Artifact, describe_saved_model, predict, saved_model
from jaxmini.export.converter import ConversionError
from jaxmini.export.saved_model import DESCRIPTION
from tests.export.conftest import LABELS, SHAPE


# Whatever runs TensorFlow takes the ten seconds that it takes to start, each time.
@pytest.fixture(scope="module")
def folder(float_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(float_artifact, tmp_path_factory.mktemp("saved") / "model")


@pytest.mark.slow
def test_a_saved_model_answers_as_the_model_for_any_batch(
    folder: Path, float_artifact: Artifact, images: np.ndarray
):
    many = np.tile(images, (7, 1, 1, 1))[:257]  # one more than the child takes at a time
    expected = predict(float_artifact)(many)
    answers = saved_model_predict(folder)(many)
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_it_describes_itself(folder: Path):
    described = describe_saved_model(folder)
    assert described["labels"] == list(LABELS)
    assert described["input"]["shape"] == [None, *SHAPE]
    assert described["provenance"] == {"made": "by a test"}


@pytest.mark.slow
def test_a_folder_without_its_graph_is_refused(folder: Path, images: np.ndarray, tmp_path: Path):
    (tmp_path / DESCRIPTION).parent.mkdir()
    (tmp_path / DESCRIPTION).write_text((folder / DESCRIPTION).read_text())
    with pytest.raises(
        ConversionError, match=r"(?s)run_saved_model.*SavedModel file does not exist"
    ):
        saved_model_predict(tmp_path)(images)


def test_what_is_none_is_refused(images: np.ndarray, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no SavedModel that jaxmini wrote"):
        saved_model_predict(tmp_path)
    path = tmp_path / DESCRIPTION
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        describe_saved_model(tmp_path)
    path.write_text(json.dumps({"input": {"name": "image", "shape": [None, *SHAPE]}}))
    with pytest.raises(ValueError, match=r"expected uint8 images \[B, 8, 8, 3\], got float64"):
        saved_model_predict(tmp_path)(images.astype(np.float64))
