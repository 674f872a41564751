"""LiteRT.js is taken from an archive, a folder, a cache or npm, and only if it is the pinned content."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from jaxmini.demo import runtime

CONTENTS = {name: name.encode() for name in runtime.SHA256}


def archive(contents: dict[str, bytes]) -> bytes:
    """A package as npm packs one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"package/wasm/{name}")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


PACKED = archive(CONTENTS)


def pin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pin a package of a few bytes."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(runtime, "SHA256", digests)
    monkeypatch.setattr(runtime, "INTEGRITY", runtime._integrity(PACKED))


@pytest.fixture(autouse=True)
def _small_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch)
    monkeypatch.setenv("PATH", "")


def npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An npm that runs a line of shell; its last argument is the folder to write to."""
    folder.mkdir()
    (folder / "npm").write_text(
        f'#!/bin/sh\nfor to; do :; done\necho "$1 $2" >> {folder}/calls\n{script}\n'
    )
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def unpacked(folder: Path, version: str = runtime.VERSION) -> Path:
    (folder / "wasm").mkdir(parents=True)
    manifest = {"name": runtime.PACKAGE, "version": version}
    (folder / "package.json").write_text(json.dumps(manifest))
    for name, content in CONTENTS.items():
        (folder / "wasm" / name).write_bytes(content)
    return folder


def test_integrity_is_written_as_npm_writes_it():
    # Of the empty content, as in package-lock.json files of empty packages.
    assert runtime._integrity(b"") == (
        "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
    )


def test_an_archive_gives_the_files_of_the_builds_asked_for(tmp_path: Path):
    (tmp_path / "a.tgz").write_bytes(PACKED)
    found = runtime.files(tmp_path / "a.tgz", tmp_path / "unused", ["compat"])
    names = ["litert_wasm_compat_internal.js", "litert_wasm_compat_internal.wasm"]
    assert found == {name: CONTENTS[name] for name in names}
    assert len(runtime.files(tmp_path / "a.tgz", tmp_path / "unused")) == 4


@pytest.mark.parametrize("place", ["", "package"])
def test_an_unpacked_package_gives_them_too(place: str, tmp_path: Path):
    unpacked(tmp_path / "here" / place)
    assert runtime.files(tmp_path / "here", tmp_path, runtime.BUILDS) == CONTENTS


def test_other_content_is_refused(tmp_path: Path):
    (tmp_path / "a.tgz").write_bytes(archive(CONTENTS | {"litert_wasm_internal.js": b"other"}))
    with pytest.raises(
        ValueError, match=r"a.tgz is not @litertjs/core 2.5.3: its integrity is sha512"
    ):
        runtime.files(tmp_path / "a.tgz", tmp_path)
    folder = unpacked(tmp_path / "here")
    (folder / "wasm/litert_wasm_internal.wasm").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"litert_wasm_internal.wasm is not that of .* SHA-256"):
        runtime.files(folder, tmp_path)


def test_another_version_and_another_folder_are_refused(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"is @litertjs/core 2.4.0; @litertjs/core 2.5.3 is needed"
    ):
        runtime.files(unpacked(tmp_path / "old", "2.4.0"), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no package.json; where there is npm .*npm pack"):
        runtime.files(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.tgz"):
        runtime.files(tmp_path / "nowhere.tgz", tmp_path)


def test_npm_is_asked_once_and_the_cache_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "packed").write_bytes(PACKED)
    npm(tmp_path / "bin", monkeypatch, f'cp {tmp_path}/packed "$to/{runtime.ARCHIVE}"')
    for _ in range(2):
        assert len(runtime.files(None, tmp_path / "cache")) == 4
    assert (tmp_path / "bin/calls").read_text() == "pack @litertjs/core@2.5.3\n"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [runtime.ARCHIVE]
    # A damaged cache is fetched again.
    (tmp_path / "cache" / runtime.ARCHIVE).write_bytes(PACKED[:-9])
    assert len(runtime.files(None, tmp_path / "cache")) == 4


def test_without_npm_the_remedy_is_told(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"npm is not installed.*npm pack .*--litertjs"):
        runtime.files(None, tmp_path)


def test_an_npm_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    npm(tmp_path / "bin", monkeypatch, "echo no network >&2; exit 1")
    with pytest.raises(OSError, match=r"(?s)npm pack .* failed: .*--litertjs.*no network"):
        runtime.files(None, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_what_npm_fetches_must_be_the_pinned_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    npm(tmp_path / "bin", monkeypatch, f'echo other > "$to/{runtime.ARCHIVE}"')
    with pytest.raises(ValueError, match=r"what npm fetched as .* its integrity is sha512"):
        runtime.files(None, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_an_npm_that_never_ends_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    npm(tmp_path / "bin", monkeypatch, "exec sleep 60")
    monkeypatch.setattr(runtime, "SECONDS", 0.2)
    with pytest.raises(TimeoutError, match="did not end in 0.2 s"):
        runtime.files(None, tmp_path / "cache")
