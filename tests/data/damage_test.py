"""Damage: the arrays that were written, or one error that names the file, whatever was done to it."""

import lzma
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from jaxmini.data import damage


def read(path: Path, *names: str) -> list[np.ndarray]:
    with damage.named(path, "a shelf", "replace it"):
        return damage.arrays(path, names)


def test_arrays_come_back_by_their_names(tmp_path):
    path = tmp_path / "a.npz"
    stored = {"b": np.arange(6).reshape(2, 3), "a": np.array("text"), "c": np.zeros(0, np.int8)}
    np.savez(path, **stored)
    for name, array in zip("abc", read(path, *"abc"), strict=True):
        np.testing.assert_array_equal(array, stored[name])
        assert array.dtype == stored[name].dtype
    with pytest.raises(ValueError, match=r"a\.npz: cannot be read as a shelf .*'x\.npy' in the ar"):
        read(path, "a", "x")


@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        KeyError("x"),
        NotImplementedError("zip file version 9.0"),
        OSError(22, "Invalid argument"),
        OverflowError("too large"),
        lzma.LZMAError("Corrupt input data"),
        struct.error("unpack requires 4 bytes"),
        zipfile.BadZipFile("Bad CRC-32"),
        zlib.error("Error -3"),
    ],
)
def test_whatever_a_reader_raises_names_the_file(error):
    expected = re.escape(f"a.npz: cannot be read as a shelf ({str(error) or 'EOFError'}); replace")
    with (
        pytest.raises(ValueError, match=expected) as caught,
        damage.named(Path("a.npz"), "a shelf", "replace it"),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_what_is_no_damage_passes():
    with pytest.raises(MemoryError), damage.named(Path("a.npz"), "a shelf", "replace it"):
        raise MemoryError


def test_an_array_shorter_than_what_is_stored_is_refused(tmp_path):
    """A header that says so reads well, and so numpy.load does not come to the checksum."""
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array("text" * 1000))
    path.write_bytes(path.read_bytes().replace(b"'<U4000'", b"'<U2000'"))
    with np.load(path) as stored:
        assert str(stored["a"]) == "text" * 500
    with pytest.raises(ValueError, match=r"a\.npz: cannot be read as a shelf .* replace it"):
        read(path, "a")


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read(tmp_path / "a.npz", "a")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.npz: cannot be read as a shelf .*No such file"):
        read(tmp_path / "none.npz", "a")
