"""Arena: the working memory that TFLite-Micro needs for a file, measured by running the file there.

Every run is in a process of its own: a damaged file may crash the interpreter, and it speaks through stderr.
"""

import dataclasses
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

from jaxmini.export import converter, flatbuffer, micro_operators, run_micro
from jaxmini.export.flatbuffer import File

PACKAGE, EXTRA = "tflite_micro", "micro"
ALIGNMENT = 16  # of the arena, and of what lies in it
# Long enough for any file of a microcontroller; a damaged one may never end.
TRIAL_SECONDS = 300


class MicroError(ValueError):
    """A file that TFLite-Micro does not run.

    Attributes:
        reasons: each thing in its way.
    """

    def __init__(self, where: str, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons
        lines = "".join(f"\n  {reason}" for reason in reasons)
        super().__init__(f"{where}: TFLite-Micro does not run the file:{lines}")


@dataclasses.dataclass(frozen=True)
class Arena:
    """Bytes of working memory of one file, counted and tried on this machine with the reference kernels.

    A controller's pointers are half as long as those of this machine if it is one of 64 bits, which the
    structures of ``persistent`` are full of. Kernels made for a controller may ask for scratch memory of
    their own besides.

    Attributes:
        smallest: the least multiple of 16 with which it was seen to run.
        total: what TFLite-Micro reports: ``activations + persistent``. A file whose activations are few may
            need more while its memory is planned.
        activations: shared by tensors that do not live at once, and by the scratch memory of kernels.
        persistent: what stays: structures, and what kernels prepare from the weights.
    """

    smallest: int
    total: int
    activations: int
    persistent: int


def measure(source: Path | str | bytes) -> Arena:
    """How much memory TFLite-Micro needs for a file, given by path or as bytes.

    Raises:
        MicroError: it does not run the file; lists the operators in its way, or says what it said.
        ValueError: not a .tflite file.
        ImportError: TFLite-Micro is not installed.
    """
    file, (content, where) = flatbuffer.read(source), flatbuffer.contents(source)
    require_known(file, where)
    enough = roomy(file)
    counted = _counted(trial(content, where, enough))
    return Arena(_smallest(content, where, counted["total"], enough), **counted)


def require_known(file: File, where: str) -> None:
    """See that TFLite-Micro has a kernel for each operator of a file; nothing is run.

    Raises:
        MicroError: it has not; lists the operators in its way, with alternatives.
    """
    if reasons := micro_operators.obstacles(file):
        raise MicroError(where, reasons)


def roomy(file: File) -> int:
    """Bytes of an arena that is large enough whatever shares memory, kernels' scratch memory included."""
    tensors = sum(tensor.dtype.itemsize * math.prod(tensor.shape) for tensor in file.tensors)
    return _aligned(4 * tensors + 4096 * (len(file.ops) + len(file.tensors)) + 65536)


def trial(content: bytes, where: str, arena: int, keep_all: bool = False, inputs: int = 1) -> str:
    """Run a file once on zeros in a process of its own.

    Args:
        content: of the file.
        where: how errors call it.
        arena: bytes of its working memory.
        keep_all: every tensor in memory of its own.
        inputs: how many the file has.

    Returns:
        What TFLite-Micro wrote of its allocations.

    Raises:
        MicroError: it refuses the file, crashes on it, or does not end.
        ImportError: TFLite-Micro is not installed.
    """
    child = _child(content, where, "report", arena, int(keep_all), inputs)
    return child.stderr.decode(errors="replace")


def _child(
    content: bytes, where: str, task: str, *arguments: int
) -> subprocess.CompletedProcess[bytes]:
    converter.require(PACKAGE, EXTRA)
    command = [sys.executable, "-P", run_micro.__file__, task, *map(str, arguments)]
    try:
        child = subprocess.run(
            command, input=content, capture_output=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MicroError(where, (f"it did not end within {TRIAL_SECONDS} s",)) from error
    if child.returncode < 0:
        names = {number.value: number.name for number in signal.Signals}
        reason = f"it crashes on it ({names.get(-child.returncode)}); the file is damaged"
        raise MicroError(where, (reason,))
    if child.returncode:
        raise MicroError(where, _own_words(child.stderr.decode(errors="replace")))
    return child


def _own_words(said: str) -> tuple[str, ...]:
    """What TFLite-Micro wrote before Python's traceback, and that one's last line."""
    before, _, traceback = said.partition("Traceback (most recent call last):")
    lines = [line.strip() for line in before.splitlines() if line.strip()]
    return (*lines, *traceback.strip().splitlines()[-1:])


def _counted(said: str) -> dict[str, int]:
    found = dict(re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", said))
    names = {"total": "total", "activations": "head", "persistent": "tail"}
    return {name: int(found[theirs]) for name, theirs in names.items()}


def _smallest(content: bytes, where: str, counted: int, enough: int) -> int:
    """The least arena that runs, from what was counted on, which most often is it."""
    found = _child(content, where, "smallest", _aligned(counted), enough, ALIGNMENT)
    return int(found.stdout)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
