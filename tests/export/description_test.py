from pathlib import Path

import pytest

from jaxmini.export import Artifact, describe_onnx, describe_stablehlo, onnx, stablehlo
from jaxmini.export.description import describe
from jaxmini.export.saved_model import DESCRIPTION


def test_every_format_is_told_apart(float_artifact: Artifact, integer_bytes: bytes, tmp_path: Path):
    file = onnx(float_artifact, tmp_path / "net.onnx").path
    assert describe(file) == describe_onnx(file)
    folder = stablehlo(float_artifact, tmp_path / "program")
    assert describe(folder) == describe_stablehlo(folder)
    (tmp_path / "net.tflite").write_bytes(integer_bytes)
    assert describe(tmp_path / "net.tflite")["variant"] == "int8"
    (tmp_path / "saved" / DESCRIPTION).parent.mkdir(parents=True)
    (tmp_path / "saved" / DESCRIPTION).write_text('{"backend": "saved_model"}')
    assert describe(tmp_path / "saved") == {"backend": "saved_model"}


def test_what_is_none_of_them_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds neither a program"):
        describe(tmp_path)
    (tmp_path / "x.txt").write_text("something else")
    with pytest.raises(ValueError, match="not a .tflite file"):
        describe(tmp_path / "x.txt")
    with pytest.raises(FileNotFoundError):
        describe(tmp_path / "nothing.tflite")
