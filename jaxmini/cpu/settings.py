"""Settings of the process that measure as helpful when JAX computes on a CPU.

XLA takes a program's whole temporary memory from malloc at every call and gives it back after. Above a
threshold glibc returns such memory to the system at once, and every page of it is faulted in anew at the
next step. Kept instead, it is there already: a training step needs 0.71 (MobileNetV2, width 0.5), 0.84
(ResNet-18, width 16) and 0.83 (ViT-Ti) of the CPU time, by ``python -m benchmarks.settings`` on two cores.
One thread, fast math, vectors of 512 bits and no YNNPACK, which it measures too, are not worth setting.
"""

import ctypes
import platform

# Parameters of mallopt(3), glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next allocation; whether that could be done.

    Takes effect for allocations after the call, best before the first computation. The process stays at
    its peak of memory. Does nothing where the C library is not glibc. Results do not change.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena: that of a runtime thread cannot hold large blocks, and the other three would not help it.
    settings = (
        (_M_ARENA_MAX, 1),
        # A threshold is an int, and 2 GiB the most: a larger block would be mapped anew at every step.
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _NEVER),
        (_M_TOP_PAD, 2**28),
    )
    taken = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(taken)
