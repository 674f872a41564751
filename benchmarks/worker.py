"""Worker: a training in a process of its own, whose settings are in place before its first computation.

The process makes steps for every line it is told, and answers with a line of what they took.
"""

import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax

# What a shell may have set, and a worker must not take over.
FOREIGN = ("XLA_FLAGS", "MALLOC_ARENA_MAX")


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a step took: seconds of CPU and of wall, page faults."""

    cpu: float
    wall: float
    faults: float


@contextlib.contextmanager
def started(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[Callable[[], Turn]]:
    """A process that serves, until the end of the block: what asks it for a turn.

    Args:
        arguments: of Python: a module of this package, and what makes it ``serve``.
        environment: that the process has besides this one's.

    Raises:
        RuntimeError: the process has ended.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={k: v for k, v in os.environ.items() if k not in FOREIGN} | (environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask() -> Turn:
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass
        said = process.stdout.readline()
        if not said:
            raise RuntimeError(f"{' '.join(process.args)} ended with code {process.wait()}")
        return Turn(**json.loads(said))

    try:
        ask()  # compiles, and makes the first steps
        yield ask
    finally:
        process.kill()
        process.communicate()


def serve(train: Callable[[], object], steps: int) -> int:
    """What the process does: ``steps`` steps a line of its input, and a line of what each took; 0."""
    for _ in sys.stdin:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds, began = time.process_time(), time.perf_counter()
        for _ in range(steps):
            result = train()
        jax.block_until_ready(result)
        wall, seconds = time.perf_counter() - began, time.process_time() - seconds
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        turn = Turn(cpu=seconds / steps, wall=wall / steps, faults=faults / steps)
        print(json.dumps(dataclasses.asdict(turn)), flush=True)
    return 0
