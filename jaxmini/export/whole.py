"""Whole: files that are there as a whole or not at all, whenever a process may be killed."""

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file, in the place of one of its name; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
