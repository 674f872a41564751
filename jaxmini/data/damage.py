"""Damage: whatever a changed, cut or foreign file makes its reader raise, as one error that names the file.

Readers have no one error for it: a flipped bit may reach zipfile, a decompressor, numpy or Pillow first.
"""

import contextlib
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# No MemoryError: it is more often the machine's than the file's.
SIGNS = (
    ArithmeticError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextlib.contextmanager
def named(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn what reading a file raises into one error that names it.

    Args:
        path: of the file that is read inside.
        what: it should be: ``"a picture"``.
        remedy: what the person should do.

    Raises:
        ValueError: one of ``SIGNS`` was raised inside.
    """
    try:
        yield
    except SIGNS as error:
        why = str(error) or type(error).__name__
        raise ValueError(f"{path}: cannot be read as {what} ({why}); {remedy}") from error


def arrays(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Arrays of an .npz file by their names, each compared with its checksum; to be called in ``named``.

    ``numpy.load`` compares only those of arrays that end where their headers say.
    """
    with zipfile.ZipFile(path) as archive:
        return [_array(archive, f"{name}.npy") for name in names]


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # at the end of all bytes zipfile compares the checksum
            raise ValueError(f"{name} is longer than its array")
    return array
