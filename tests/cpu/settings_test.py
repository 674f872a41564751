"""Settings: page faults of a step go away, in a process of its own."""

import platform
import subprocess
import sys

import pytest

from jaxmini.cpu import settings

PROGRAM = """
import ctypes, resource, sys
import numpy as np
from jaxmini.cpu import settings
if sys.argv[1] == "keep":
    assert settings.keep_freed_memory()
size, libc = int(sys.argv[2]), ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
def touch():
    block = libc.malloc(size)
    np.frombuffer((ctypes.c_uint8 * size).from_address(block), np.uint8)[:: size >> 10] = 1
    libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(argument: str, size: int) -> int:
    command = [sys.executable, "-c", PROGRAM, argument, str(size)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize("size", [64 << 20, (2 << 30) + (64 << 20)])
def test_freed_memory_is_kept(size: int):
    """Blocks of more than 2 GiB too, which no threshold can be set to."""
    kept, returned = faults("keep", size), faults("leave", size)
    # Ten times 1,024 touches; where every page is a huge one, of 2 MiB, 64 MiB have 32 of them.
    assert kept < 160 < returned


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(settings.platform, "system", lambda: "Darwin")
    assert settings.keep_freed_memory() is False
