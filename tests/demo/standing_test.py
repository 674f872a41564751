"""What a report says of a file, and only of the very file."""

import re
from pathlib import Path

from jaxmini.demo import network
from jaxmini.demo.standing import Standing, standing
from tests.demo.conftest import ACCURACY


def test_the_report_of_the_very_file(run: Path, integer_path: Path):
    sha256 = network.read(integer_path).sha256
    assert standing("int8.tflite", sha256, run) == Standing(ACCURACY, "the report of tried")


def test_a_changed_file_and_an_unknown_one_have_none(run: Path, float_path: Path):
    sha256 = network.read(float_path).sha256
    for name in ("int8.tflite", "float32.tflite"):
        found = standing(name, sha256, run)
        assert found == Standing(None, "the report of tried is not of this file")


def test_without_a_report_and_with_a_damaged_one_it_says_so(tmp_path: Path):
    assert standing("a", "0" * 64, tmp_path).source == "the file does not lie in a run"
    for text in ("{", "[]", '{"format": 99}', '{"format": 2, "titel": ""}'):
        (tmp_path / "report.json").write_text(text)
        found = standing("a", "0" * 64, tmp_path)
        assert found.accuracy is None
        assert re.fullmatch(r"the report of .* cannot be read \(\w+\)", found.source)
