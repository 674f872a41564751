"""Whole: a file is there with all of its bytes, or the one before it is; a full disk has a name."""

import errno
import os
import re
from pathlib import Path

import pytest

from jaxmini.export import whole


def test_a_file_takes_the_place_of_one_and_its_folders_are_made(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "net.tflite"
    whole.write(path, b"first")
    whole.write(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("moment", ["write_bytes", "replace"])
def test_who_is_killed_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch, moment: str):
    path = tmp_path / "net.tflite"
    whole.write(path, b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*((Path, moment) if moment == "write_bytes" else (os, moment)), killed)
        with pytest.raises(KeyboardInterrupt):
            whole.write(path, b"new")
    assert path.read_bytes() == b"old"
    whole.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_without_a_path_gets_the_folder(tmp_path: Path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path}'")),
        whole.naming(tmp_path),
    ):
        raise full
    with (
        pytest.raises(OSError, match="No space left on device: 'other'"),
        whole.naming(tmp_path),
        whole.naming(Path("other")),
    ):
        raise full


def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole.write(Path("student-int8.tflite"), b"content")
    assert whole.read(Path("student-int8.tflite")) == b"content"
    with pytest.raises(FileNotFoundError) as caught:
        whole.read(Path("student-int.tflite"))
    said = "no file student-int.tflite; did you mean 'student-int8.tflite'?"
    assert str(caught.value) == said
    with pytest.raises(FileNotFoundError, match=r"^no file nowhere/net\.tflite$"):
        whole.read(Path("nowhere/net.tflite"))
