"""TFLite-Micro's interpreter as it is, and as a script one run of a file that says what memory it took.

Native code may crash on a damaged file, which no exception tells. As a script this module runs in a process
of its own, so it imports nothing but the interpreter.
"""

import importlib
import os
import sys
from typing import Any


def interpreter(content: bytes, arena: int, keep_all: bool = False) -> Any:
    """The interpreter of a file's bytes, its tensors allocated.

    Args:
        content: of the file.
        arena: bytes of its working memory.
        keep_all: keep every tensor readable after a run, each in memory of its own.

    Raises:
        RuntimeError: the interpreter refuses the file, or the arena is too small; the reason is on stderr.
    """
    from tflite_micro import runtime

    kinds = runtime.InterpreterConfig
    kind = kinds.kPreserveAllTensors if keep_all else kinds.kAllocationRecording
    return runtime.Interpreter.from_bytes(content, arena_size=arena, intrepreter_config=kind)


def _run(content: bytes, arena: int, keep_all: bool = False, inputs: int = 1) -> Any:
    """Run the file once on zeros for each of its inputs."""
    import numpy as np

    made = interpreter(content, arena, keep_all)
    for index in range(inputs):
        described = made.get_input_details(index)
        made.set_input(np.zeros(described["shape"], described["dtype"]), index)
    made.invoke()
    made.get_output(0)
    return made


def _report(content: bytes, arena: str, keep_all: str, inputs: str) -> None:
    """Run the file of stdin; its allocations go to stderr where they are counted."""
    made = _run(content, int(arena), keep_all == "1", int(inputs))
    if keep_all == "0":
        made.print_allocations()


def _smallest(content: bytes, low: str, high: str, step: str) -> None:
    """Write the least multiple of ``step`` bytes from ``low`` on with which the file runs to stdout.

    All three are multiples of it; with ``high`` it is known to run.
    """
    importlib.import_module("tflite_micro")  # once, and not in every process
    least, most, stride = int(low) // int(step), int(high) // int(step), 1
    while least < most:
        middle = min(least + stride - 1, (least + most) // 2)  # most often it is the first
        if _survives(content, middle * int(step)):
            most = middle
        else:
            least, stride = middle + 1, 2 * stride
    print(most * int(step))


def _survives(content: bytes, arena: int) -> bool:
    """Whether a run ends well in a process of its own: too small an arena may crash the interpreter."""
    if child := os.fork():
        return os.waitpid(child, 0)[1] == 0
    code = 1
    try:
        _run(content, arena)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    {"report": _report, "smallest": _smallest}[task](sys.stdin.buffer.read(), *arguments)
