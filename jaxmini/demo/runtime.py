"""LiteRT.js: the LiteRT interpreter as WebAssembly, from the npm package, pinned by version and digests.

The user's own npm fetches it, once; nothing of another content is taken.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from jaxmini.export import whole

PACKAGE, VERSION = "@litertjs/core", "2.5.3"
ARCHIVE = f"litertjs-core-{VERSION}.tgz"  # as ``npm pack`` calls it
# SHA-512 of the archive, as npm writes it.
INTEGRITY = "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ=="
# The builds that a page can choose from, and the files of each: its script and its WebAssembly.
BUILDS = {
    "simd": "litert_wasm_internal",  # relaxed SIMD, one thread
    "compat": "litert_wasm_compat_internal",  # for browsers without relaxed SIMD
    "threads": "litert_wasm_threaded_internal",  # relaxed SIMD, several threads
}
# SHA-256 of the files inside: a package that was unpacked has no digest of its own.
SHA256 = {
    "litert_wasm_internal.js": "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    "litert_wasm_internal.wasm": "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    "litert_wasm_compat_internal.js": (
        "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5"
    ),
    "litert_wasm_compat_internal.wasm": (
        "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c"
    ),
    "litert_wasm_threaded_internal.js": (
        "92fe7a720c6deedaa1194c011c79a005ea4f6fc98f533b661cf7900760ab4849"
    ),
    "litert_wasm_threaded_internal.wasm": (
        "b5e54eca10f043497edf9a02186332707cae260c550d7ea22b2cae55669596cf"
    ),
}
SECONDS = 600  # npm's share of a slow line
REMEDY = (
    f"where there is npm and a network, `npm pack {PACKAGE}@{VERSION}` writes {ARCHIVE}; "
    f"bring it here and give it as --litertjs {ARCHIVE}"
)


def files(
    given: Path | None, cache: Path, builds: Iterable[str] = ("simd", "compat")
) -> dict[str, bytes]:
    """The files of some builds, by name, each with the digest that it had when this was written.

    Args:
        given: the npm package as an archive, or unpacked; None = that of the cache, fetched if missing.
        cache: folder in which the fetched archive is kept.
        builds: keys of ``BUILDS``.

    Raises:
        ValueError: the package is another version, or its content is not the pinned one.
        OSError: it cannot be read, or npm is missing or has failed; the message holds the remedy.
    """
    names = [f"{BUILDS[build]}.{kind}" for build in builds for kind in ("js", "wasm")]
    place = fetched(cache) if given is None else given
    contents = _of_folder(place, names) if place.is_dir() else _of_archive(place, names)
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise ValueError(
                f"{place}: {name} is not that of {PACKAGE} {VERSION}: its SHA-256 differs; {REMEDY}"
            )
    return contents


def fetched(cache: Path) -> Path:
    """The package's archive in the cache; npm fetches it if it is not there.

    Raises:
        OSError: npm is missing, or cannot fetch it.
        ValueError: what npm fetched is not the pinned content.
    """
    path = cache / ARCHIVE
    if path.is_file() and _integrity(path.read_bytes()) == INTEGRITY:
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(f"npm is not installed, and LiteRT.js is not at {path}: {REMEDY}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _pack(npm, folder)
        found = Path(folder) / ARCHIVE
        _require_integrity(found.read_bytes(), f"what npm fetched as {PACKAGE}@{VERSION}")
        os.replace(found, path)
    return path


def _pack(npm: str, folder: str) -> None:
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(
            f"`{' '.join(command[:3])}` did not end in {SECONDS} s: {REMEDY}"
        ) from error
    if done.returncode or not (Path(folder) / ARCHIVE).is_file():
        said = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise OSError(f"`npm {' '.join(command[1:3])}` failed: {REMEDY}\nnpm said:\n{said}")


def _of_archive(path: Path, names: list[str]) -> dict[str, bytes]:
    content = whole.read(path)
    _require_integrity(content, str(path))
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        return {name: archive.extractfile(f"package/wasm/{name}").read() for name in names}


def _of_folder(folder: Path, names: list[str]) -> dict[str, bytes]:
    """The files of an unpacked package: the folder itself, or the one that the archive holds."""
    root = folder / "package" if (folder / "package").is_dir() else folder
    if not (root / "package.json").is_file():
        raise FileNotFoundError(
            f"{folder} does not hold the npm package {PACKAGE}: no package.json; {REMEDY}"
        )
    found = json.loads((root / "package.json").read_text(encoding="utf-8"))
    name, version = found.get("name"), found.get("version")
    if (name, version) != (PACKAGE, VERSION):
        raise ValueError(f"{root} is {name} {version}; {PACKAGE} {VERSION} is needed: {REMEDY}")
    return {name: (root / "wasm" / name).read_bytes() for name in names}


def _require_integrity(content: bytes, what: str) -> None:
    found = _integrity(content)
    if found != INTEGRITY:
        raise ValueError(
            f"{what} is not {PACKAGE} {VERSION}: its integrity is {found}, not {INTEGRITY}; {REMEDY}"
        )


def _integrity(content: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
