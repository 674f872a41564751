"""Settings: page faults of a step go away, in a process of its own."""

import platform

import pytest

from jaxmini.cpu import settings
from tests.cpu.page_faults import LARGE, faults


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize("size", [64 << 20, LARGE])
def test_freed_memory_is_kept(size: int):
    """Blocks of more than 2 GiB too, which no threshold can be set to."""
    kept, returned = faults(size, "keep"), faults(size)
    # Ten times 1,024 touches; where every page is a huge one, of 2 MiB, 64 MiB have 32 of them.
    assert kept < 160 < returned


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(settings.platform, "system", lambda: "Darwin")
    assert settings.keep_freed_memory() is False
