"""Together: what the processes of one run must do as one; for a single process it is nothing.

Process 0 leads: it alone prints, and writes what there is once.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils


def leads() -> bool:
    """Whether this process writes and prints for all."""
    return jax.process_index() == 0


def meet(name: str) -> None:
    """Wait until every process is here; all must give the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def told(number: int) -> int:
    """The number that process 0 gives, in every process; what the others give is not looked at."""
    if jax.process_count() > 1:
        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
    return number


def agree(number: int, otherwise: str) -> None:
    """Stop where the processes hold different numbers.

    Raises:
        AssertionError: says ``otherwise``; in every process.
    """
    if jax.process_count() > 1:
        multihost_utils.assert_equal(np.int32(number), otherwise)
