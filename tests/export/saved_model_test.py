import json
from pathlib import Path

import pytest

from jaxmini.export import Artifact, describe_saved_model, saved_model
from jaxmini.export.saved_model import DESCRIPTION
from tests.export.conftest import LABELS, SHAPE


# TensorFlow takes ten seconds to start.
@pytest.mark.slow
def test_it_describes_itself(float_artifact: Artifact, tmp_path: Path):
    described = describe_saved_model(saved_model(float_artifact, tmp_path / "model"))
    assert described["labels"] == list(LABELS)
    assert described["input"]["shape"] == [None, *SHAPE]
    assert described["provenance"] == {"made": "by a test"}


def test_what_is_none_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no SavedModel that jaxmini wrote"):
        describe_saved_model(tmp_path)
    path = tmp_path / DESCRIPTION
    path.parent.mkdir()
    for text in ("{", json.dumps([1])):
        path.write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            describe_saved_model(tmp_path)
