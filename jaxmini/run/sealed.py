"""Sealed JSON: a small file that is either whole or not there, and that knows when it was changed.

It is written beside its place, flushed to the disk and renamed, and carries its own SHA-256.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

_SEAL = "sha256"


class SealError(ValueError):
    """A file's content is not what its digest says."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Put the content at ``path``, on the disk when this returns, in the place of what was there.

    Raises:
        TypeError: JSON would change the content (a tuple, a key that is no string, a NumPy number).
        OSError: the disk is full, or the folder cannot be written.
    """
    require_plain(content, path.name)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(_text(content))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def read(path: Path) -> dict[str, Any]:
    """The content that ``write`` put there.

    Raises:
        SealError: the file is not JSON, or was changed since it was written.
        OSError: there is no such file, or it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = {key: value for key, value in json.loads(text).items() if key != _SEAL}
    except (ValueError, AttributeError) as error:
        raise SealError(f"{path} was changed since it was written: it is not JSON") from error
    if text != _text(content):
        raise SealError(f"{path} was changed since it was written: its SHA-256 differs")
    return content


def require_plain(content: Any, where: str) -> None:
    """Refuse what JSON would not give back as it was.

    Raises:
        TypeError: names ``where`` and what JSON makes of the content.
    """
    try:
        given, back = repr(content), repr(json.loads(json.dumps(content)))
    except TypeError as error:
        raise TypeError(f"{where}: {error}; use plain dicts, lists, strings and numbers") from error
    if given != back:
        raise TypeError(f"{where}: JSON would change {given} to {back}; use plain dicts and lists")


def sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(content: dict[str, Any]) -> str:
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps({**content, _SEAL: digest}, indent=1) + "\n"
