"""Whole: a file is there with all of its bytes, or the one before it is."""

import os
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
