"""How often the system has to give memory again for blocks that were freed before, as a script."""

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Mapping

LARGE = (2 << 30) + (64 << 20)  # more than a threshold of malloc can be


def faults(size: int, *arguments: str, variables: Mapping[str, str] | None = None) -> int:
    """Page faults for ten blocks of that many bytes, each touched at 1,024 places, in a process of its own.

    Args:
        size: of a block.
        arguments: ``keep`` keeps freed memory as ``jaxmini.cpu`` does.
        variables: of malloc, which has no others.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, __file__, str(size), *arguments]
    environment = own | dict(variables or {})
    return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


def _counted(size: int) -> int:
    import numpy as np

    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]

    def touch() -> None:
        block = libc.malloc(size)
        np.frombuffer((ctypes.c_uint8 * size).from_address(block), np.uint8)[:: size >> 10] = 1
        libc.free(block)

    touch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        touch()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


if __name__ == "__main__":
    if sys.argv[2:] == ["keep"]:
        from jaxmini.cpu import settings

        assert settings.keep_freed_memory()
    print(_counted(int(sys.argv[1])))
