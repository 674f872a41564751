"""The three files: read back equal, written alike every time, and never half."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxmini.run.report import storage
from jaxmini.run.report.content import Mistake, Report

NAMES = ["report.html", "report.json", "report.md"]


@pytest.fixture(scope="module")
def written(sample: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "report"
    storage.write(sample, path)
    return path


def test_the_files_and_nothing_else(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == NAMES


def test_the_report_comes_back(sample: Report, written: Path) -> None:
    assert storage.read(written) == sample


def test_the_record_is_strict_json(written: Path) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    record = json.loads((written / "report.json").read_bytes(), parse_constant=refuse)
    assert record["format"] == storage.FORMAT


def test_the_same_report_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    storage.write(storage.read(written), tmp_path)
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_what_cannot_be_written_leaves_the_old_report(sample: Report, tmp_path: Path) -> None:
    storage.write(Report("old"), tmp_path)
    broken = dataclasses.replace(sample, mistakes=(Mistake(1, 0, 1, 0.5, b"no picture"),))
    with pytest.raises(ValueError, match="not a PNG"):
        storage.write(broken, tmp_path)
    assert storage.read(tmp_path) == Report("old")
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES


def test_a_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write(Report("old"), tmp_path)

    def refuse(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(storage.os, "fsync", refuse)
    with pytest.raises(OSError, match="no space left"):
        storage.write(Report("new"), tmp_path)
    assert "<h1>old</h1>" in (tmp_path / "report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"format": 99, "title": "run"}')
    with pytest.raises(ValueError, match="is of format 99"):
        storage.read(tmp_path)


def test_a_report_of_before_there_were_gates_is_read(sample: Report, tmp_path: Path) -> None:
    storage.write(dataclasses.replace(sample, gates=()), tmp_path)
    record = json.loads((tmp_path / "report.json").read_text())
    del record["gates"]
    for file in record["files"]:
        del file["float_ops"]
        file["gates"] = []
    (tmp_path / "report.json").write_text(json.dumps(record | {"format": 1}))
    read = storage.read(tmp_path)
    assert [file.bytes for file in read.files] == [file.bytes for file in sample.files]
    assert read.gates == ()
    assert read.files[0].float_ops is None


def test_no_report(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(tmp_path)
