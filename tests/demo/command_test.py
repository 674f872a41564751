"""The command ``demo``: what it prints and writes, and how it ends."""

import json
from pathlib import Path

import pytest

from jaxmini.__main__ import main
from jaxmini.demo import runtime
from tests.demo.runtime_test import CONTENTS, PACKED, pin


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, a package of a few bytes, and no npm."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "that of these tests")
    monkeypatch.setenv("JAXMINI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    pin(monkeypatch)
    (tmp_path / runtime.ARCHIVE).write_bytes(PACKED)


def failed(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(["demo", *arguments]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_it_writes_a_folder_and_says_how_to_serve_it(
    integer_path: Path, capsys: pytest.CaptureFixture
):
    given = ["--litertjs", runtime.ARCHIVE, "--count", "5"]
    assert main(["demo", str(integer_path), *given]) == 0
    said = capsys.readouterr().out
    assert "of which LiteRT.js 2.5.3 is" in said
    assert f"the file {integer_path.stat().st_size:,} B" in said
    assert "5 pictures: the test split of digits" in said
    assert "serve it with: python -m jaxmini.demo.server int8-demo" in said
    manifest = json.loads(Path("int8-demo/demo.json").read_text())
    assert len(manifest["pictures"]) == 5
    assert manifest["runtime"]["builds"].keys() == {"simd", "compat"}
    names = [name for name in CONTENTS if "threaded" not in name]
    assert sorted(path.name for path in Path("int8-demo/litert").iterdir()) == sorted(names)


def test_threads_bring_their_build_and_serve_serves(
    float_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    given = ["--litertjs", runtime.ARCHIVE, "--output", "made", "--threads", "--serve", "0"]
    assert main(["demo", str(float_path), *given]) == 0
    assert "http://127.0.0.1:" in capsys.readouterr().out
    assert {path.name for path in Path("made/litert").iterdir()} == set(CONTENTS)


def test_it_refuses_in_one_message(integer_path: Path, capsys: pytest.CaptureFixture):
    Path("notes.txt").write_text("mine")
    path = str(integer_path)
    assert "npm is not installed" in failed(capsys, path)
    assert "missing.tflite" in failed(capsys, "missing.tflite")
    assert "notes.txt: not a .tflite file" in failed(capsys, "notes.txt")
    assert "which no demo wrote" in failed(capsys, path, "--output", ".")
    assert "the number of pictures is 0" in failed(capsys, path, "--count", "0")
    assert "there is no folder" in failed(capsys, path, "--pictures", "none")
    assert "its integrity is" in failed(capsys, path, "--litertjs", "notes.txt")
    given = ["--litertjs", runtime.ARCHIVE, "--serve", "99999"]
    assert "port 99999" in failed(capsys, path, *given)
