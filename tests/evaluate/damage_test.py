"""No damaged file ends the process that reads it, at whatever door: it is refused by its name, or runs."""

from pathlib import Path

import pytest

from jaxmini.export import Artifact
from tests.evaluate.damage import DOORS, RAN, READERS, Said, absent, cut, flipped, tried
from tests.export.tampering import edited

pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")

CUT, FLIPPED = range(2), range(6)


@pytest.fixture(scope="module")
def said(
    integer_path: Path, integer_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> list[Said]:
    content = integer_path.read_bytes()
    files = {f"cut{seed}.tflite": cut(content, seed) for seed in CUT}
    files |= {f"flipped{seed}.tflite": flipped(content, seed) for seed in FLIPPED}
    for operator in ("ADD", "FULLY_CONNECTED"):
        files[f"without{operator}.tflite"] = edited(content, absent(operator, 1))
    whole = {"whole.tflite": content}
    return tried(files | whole, integer_artifact, tmp_path_factory.mktemp("damaged"))


def test_every_door_is_tried(said: list[Said]):
    assert len(said) == len(DOORS) * (len(CUT) + len(FLIPPED) + 3)


@pytest.mark.parametrize("door", DOORS)
def test_a_file_is_refused_by_its_name_or_runs(door: str, said: list[Said]):
    found = [each for each in said if each.door == door]
    for file, _, kind, message in found:
        assert kind == RAN or (kind in ("ValueError", "MicroError") and file in message), message
        assert file != "whole.tflite" or kind == RAN, message
        assert not (file.startswith("without") and kind == RAN) or door in READERS
        assert not file.startswith("cut") or kind != RAN
