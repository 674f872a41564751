"""Whole: files that are there as a whole or not at all, and errors of the disk that say where it is full."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from jaxmini.near_miss import near_path


def write(path: Path, content: bytes) -> None:
    """Write a file, in the place of one of its name; folders on the way are made.

    Whenever the process may be killed, what is at ``path`` is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        FileNotFoundError: it is not there; names it, and what lies there under the nearest name.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file {path}{near_path(path)}") from error


@contextlib.contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Add the folder to an error of the disk that does not say where it happened.

    Raises:
        OSError: one was raised inside; of a full disk the system tells no path.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(folder)) from error
