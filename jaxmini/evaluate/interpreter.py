"""Interpreter: a .tflite file that runs, with the kernels named, on arrays as the file itself takes them."""

import enum
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmini.evaluate import native
from jaxmini.evaluate.micro import MicroInterpreter
from jaxmini.export import converter, flatbuffer
from jaxmini.near_miss import did_you_mean


class Kernels(enum.StrEnum):
    """Which implementation of the operators runs.

    ``XNNPACK`` is what an application gets on a CPU, ``OPTIMIZED`` the interpreter's own code without it,
    ``REFERENCE`` the plain code that the kernels of microcontrollers follow, ``MICRO`` those themselves:
    TFLite-Micro's interpreter, on one thread.
    """

    XNNPACK = "xnnpack"
    OPTIMIZED = "optimized"
    REFERENCE = "reference"
    MICRO = "micro"


# Those of one interpreter, which file_parity runs unasked.
LITERT = (Kernels.XNNPACK, Kernels.OPTIMIZED, Kernels.REFERENCE)
# The interpreter starts as many as it is told, and a process that cannot have them crashes.
MOST_THREADS = 1024


class Interpreter:
    """One interpreter of a file.

    The file is run once in a process of its own first: a damaged one may crash the interpreter.

    Args:
        several: take a file of several inputs and outputs, too.

    Attributes:
        file: what the file holds.
        inputs, outputs: its tensors in ``file``.

    Raises:
        ValueError: not a .tflite file, one cut short, one with several inputs or outputs if ``several`` is
            not asked for, or a dimension other than the batch left open, unknown kernels or signature,
            threads not in 1..1024, several of ``MICRO``, or a signature there, or the file crashes the
            interpreter; names the file.
        TypeError: threads is no whole number.
        ImportError: the interpreter is not installed.
    """

    def __init__(
        self,
        source: Path | str | bytes,
        *,
        kernels: Kernels | str = Kernels.XNNPACK,
        threads: int = 1,
        keep_all: bool = False,
        signature: str | None = None,
        several: bool = False,
    ) -> None:
        require = functools.partial(require_ends, several=several)
        self.file, self._native = opened(
            source, kernels, threads, keep_all, signature, require=require
        )
        _, self._where = flatbuffer.contents(source)
        self.inputs = tuple(self.file.tensors[index] for index in self.file.inputs)
        self.outputs = tuple(self.file.tensors[index] for index in self.file.outputs)
        self._signature = None
        if signature is not None:
            self._signature = self._native.get_signature_runner(signature)

    @property
    def input(self) -> flatbuffer.Tensor:
        """The only input, or the first."""
        return self.inputs[0]

    @property
    def output(self) -> flatbuffer.Tensor:
        """The only output, or the first."""
        return self.outputs[0]

    def run(self, *inputs: np.ndarray, output: int = 0) -> np.ndarray:
        """An output for an array of each input's shape and dtype, of the signature if one was named."""
        given, asked = zip(self.file.inputs, inputs, strict=True), self.file.outputs[output]
        if self._signature is not None:
            return self._signed(dict(given), asked)
        for index, numbers in given:
            self._native.set_tensor(index, numbers)
        self._native.invoke()
        return self.tensor(asked)

    def _signed(self, given: Mapping[int, np.ndarray], asked: int) -> np.ndarray:
        """``run`` of a signature, which takes and gives tensors by names of its own."""
        takes = self._signature.get_input_details()
        gives = self._signature.get_output_details()
        answers = self._signature(**{name: given[of["index"]] for name, of in takes.items()})
        return next(answers[name] for name, of in gives.items() if of["index"] == asked)

    def tensor(self, index: int) -> np.ndarray:
        """A tensor of ``file`` after ``run``; one between operators only with ``keep_all``.

        Raises:
            ValueError: the interpreter runs a signature, whose tensors cannot be read, or left the tensor
                out, as XNNPACK does what leads nowhere; names the file.
        """
        if self._signature is not None:
            raise ValueError("Interpreter: of a signature only the answer of run can be read")
        try:
            return self._native.get_tensor(index)
        except ValueError as error:
            name = self.file.tensors[index].name
            raise ValueError(
                f"{self._where}: tensor {name!r} is not there after a run ({error}): the file is damaged, or "
                "nothing reads what writes it"
            ) from error


def opened(
    source: Path | str | bytes,
    kernels: Kernels | str,
    threads: int = 1,
    keep_all: bool = False,
    signature: str | None = None,
    *,
    require: Callable[[flatbuffer.File, str], None],
) -> tuple[flatbuffer.File, Any]:
    """A file, and LiteRT's or TFLite-Micro's own interpreter of it, seen to end one run.

    Args:
        source, kernels, threads, keep_all, signature: as of ``Interpreter``.
        require: sees that the file, and how errors call it, is one that will do.

    Raises:
        ValueError, ImportError: as ``Interpreter``.
    """
    check_threads("tflite", threads)
    kernels = known_kernels(kernels)
    if kernels is Kernels.MICRO and threads > 1:
        raise ValueError(f"tflite: threads is {threads}; TFLite-Micro runs on one")
    if kernels is Kernels.MICRO and signature is not None:
        raise ValueError(
            f"tflite: signature is {signature!r}; TFLite-Micro runs a file's first one, unnamed"
        )
    converter.require("ai_edge_litert", "litert")
    content, where = flatbuffer.contents(source)
    file = flatbuffer.read(source, signature, calls=True)
    require(file, where)
    if kernels is Kernels.MICRO:  # which tries the file itself
        return file, MicroInterpreter(content, file, where, keep_all)
    native.require_runs(content, where, kernels.value, threads, keep_all, signature)
    try:
        return file, native.interpreter(content, kernels.value, threads, keep_all)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: the interpreter refuses the file: {error}") from error


def in_batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Images [N, ...] as batches [size, ...]; the last is filled up with its own images."""
    for start in range(0, len(images), size):
        part = images[start : start + size]
        yield part[np.resize(np.arange(len(part)), size)]


def in_batches_each(inputs: Sequence[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Several arrays [N, ...] as batches of each, ``in_batches``."""
    yield from zip(*(in_batches(array, size) for array in inputs), strict=True)


def check_threads(where: str, threads: int) -> None:
    """See that a number of threads is one, and not more than a system can start.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is not in 1..1024.
    """
    if not isinstance(threads, int | np.integer):
        raise TypeError(f"{where}: threads is {threads!r}, expected a whole number of at least 1")
    if threads < 1:
        raise ValueError(f"{where}: threads is {threads}; it must be at least 1")
    if threads > MOST_THREADS:
        raise ValueError(
            f"{where}: threads is {threads}; it must be at most {MOST_THREADS}, and more than the machine "
            "has cores are of no use"
        )


def known_kernels(kernels: Kernels | str) -> Kernels:
    """The kernels of that name.

    Raises:
        ValueError: there are none; lists those there are, and offers the nearest.
    """
    try:
        return Kernels(kernels)
    except ValueError:
        known = [kind.value for kind in Kernels]
        listed = ", ".join(map(repr, known)) + did_you_mean(kernels, known)
        raise ValueError(f"tflite: kernels {kernels!r} are unknown; there are {listed}") from None


def require_ends(file: flatbuffer.File, where: str, *, several: bool = False) -> None:
    """Check that a file maps one array to one, or ``several``, and all that ``require_sizes`` does.

    Raises:
        ValueError: it does not; names the file and the tensor.
    """
    for what, indices in (("input", file.inputs), ("output", file.outputs)):
        if not indices:
            raise ValueError(f"{where}: has no {what}s; at least one is expected")
        if len(indices) > 1 and not several:
            raise ValueError(f"{where}: has {len(indices)} {what}s; one is expected")
    require_sizes(file, where)


def require_sizes(file: flatbuffer.File, where: str) -> None:
    """Check that all sizes of a file's tensors are known but for the batch.

    Raises:
        ValueError: one is not; names the file and the tensor.
    """
    for tensor in file.tensors:
        if any(axis > 0 for axis in tensor.dynamic):
            raise ValueError(
                f"{where}: tensor {tensor.name!r} has a size that is known only when the file runs "
                f"(dimensions {list(tensor.dynamic)} of {list(tensor.shape)}); only the batch may be "
                "open: convert the model again with a fixed input shape"
            )
        if min(tensor.shape, default=1) < 0:
            raise ValueError(f"{where}: tensor {tensor.name!r} has the shape {list(tensor.shape)}")
