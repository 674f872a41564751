"""Settings: page faults of a step go away, in a process of its own."""

import platform
import subprocess
import sys

import pytest

from jaxmini.cpu import settings

PROGRAM = """
import resource, sys
import numpy as np
from jaxmini.cpu import settings
if sys.argv[1] == "keep":
    assert settings.keep_freed_memory()
def touch():
    np.ones(64 << 20, np.uint8)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(argument: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept():
    kept, returned = faults("keep"), faults("leave")
    # Ten times 64 MiB: 320 faults where every page is a huge one, of 2 MiB, which NumPy asks for.
    assert kept < 160 < returned


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(settings.platform, "system", lambda: "Darwin")
    assert settings.keep_freed_memory() is False
