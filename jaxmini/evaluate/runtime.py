"""A .tflite file as a Predict: the file itself is run, with the kernels named, and timed."""

import dataclasses
import enum
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxmini.evaluate.accuracy import Predict
from jaxmini.export import converter, flatbuffer, metadata


class Kernels(enum.StrEnum):
    """Which implementation of the operators runs.

    ``XNNPACK`` is what an application gets on a CPU, ``OPTIMIZED`` the interpreter's own code without it,
    ``REFERENCE`` the plain code that the kernels of microcontrollers follow.
    """

    XNNPACK = "xnnpack"
    OPTIMIZED = "optimized"
    REFERENCE = "reference"


@dataclasses.dataclass(frozen=True)
class Latency:
    """Wall time of one image, in milliseconds, over ``runs`` runs.

    Attributes:
        median: half of the runs were faster.
        low, high: the 10th and the 90th percentile.
        runs: how many were measured.
    """

    median: float
    low: float
    high: float
    runs: int


class _Runner:
    """One interpreter of a file of batch 1, and how its input and output are read."""

    def __init__(self, source: Path | str | bytes, kernels: Kernels | str, threads: int):
        if threads < 1:
            raise ValueError(f"tflite: threads is {threads}; it must be at least 1")
        content, where = flatbuffer.contents(source)
        self.description = metadata.describe_file(content if where == "model bytes" else source)
        self._interpreter = _interpreter(content, where, _kernels(kernels), threads)
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self.input_shape = tuple(int(size) for size in self._input["shape"][1:])

    def encode(self, images: np.ndarray) -> np.ndarray:
        """uint8 images [N, H, W, C] -> what the file's input takes."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.input_shape:
            raise ValueError(
                f"tflite: expected uint8 images [B, {', '.join(map(str, self.input_shape))}], "
                f"got {images.dtype}{list(images.shape)}"
            )
        if self.description["input"]["encoding"] == metadata.ENCODINGS["float32"]:
            return images.astype(np.float32)
        return (images.astype(np.int16) - 128).astype(np.int8)

    def run(self, example: np.ndarray) -> np.ndarray:
        """One encoded image [H, W, C] -> the file's own output [C]."""
        self._interpreter.set_tensor(self._input["index"], example[None])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])[0]

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """The file's own outputs -> float32 logits."""
        if outputs.dtype == np.float32:
            return outputs
        scale, zero_point = self._output["quantization"]
        return (outputs.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)

    def outputs(self, images: np.ndarray) -> np.ndarray:
        return np.stack([self.run(example) for example in self.encode(images)])


def tflite_predict(
    source: Path | str | bytes, *, kernels: Kernels | str = Kernels.XNNPACK, threads: int = 1
) -> Predict:
    """A file as a Predict: uint8 images [B, H, W, C] -> float32 logits [B, classes], dequantized.

    Args:
        source: path or bytes of a file that ``jaxmini.export.tflite`` wrote.
        kernels: which implementation of the operators runs.
        threads: of the interpreter.

    Raises:
        ValueError: not such a file, a file cut short, unknown kernels; later, images of another shape.
        ImportError: the interpreter is not installed.
    """
    runner = _Runner(source, kernels, threads)
    return lambda images: runner.decode(runner.outputs(images))


def tflite_integers(
    source: Path | str | bytes, *, kernels: Kernels | str = Kernels.XNNPACK, threads: int = 1
) -> Predict:
    """An int8 file's own answers: uint8 images [B, H, W, C] -> int8 logits [B, classes].

    Raises:
        ValueError: as ``tflite_predict``, or the file's output is not int8.
    """
    runner = _Runner(source, kernels, threads)
    dtype = runner.description["output"]["dtype"]
    if dtype != "int8":
        raise ValueError(f"tflite_integers: the file's output is {dtype}, not int8")
    return runner.outputs


def latency(
    source: Path | str | bytes,
    *,
    threads: int = 1,
    kernels: Kernels | str = Kernels.XNNPACK,
    warmup: int = 10,
    runs: int = 100,
) -> Latency:
    """How long the file takes for one image, without reading its input and output formats.

    Args:
        source: path or bytes of a file that ``jaxmini.export.tflite`` wrote.
        threads: of the interpreter.
        kernels: which implementation of the operators runs.
        warmup: runs before the clock starts.
        runs: measured runs, at least 1.

    Raises:
        ValueError: as ``tflite_predict``, or ``runs`` below 1.
    """
    if runs < 1:
        raise ValueError(f"latency: runs is {runs}; it must be at least 1")
    runner = _Runner(source, kernels, threads)
    image = np.random.default_rng(0).integers(0, 256, (1, *runner.input_shape), dtype=np.uint8)
    (example,) = runner.encode(image)
    for _ in range(warmup):
        runner.run(example)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        runner.run(example)
        times.append(1000 * (time.perf_counter() - start))
    low, median, high = np.percentile(times, [10, 50, 90])
    return Latency(float(median), float(low), float(high), runs)


def _kernels(kernels: Kernels | str) -> Kernels:
    try:
        return Kernels(kernels)
    except ValueError:
        known = ", ".join(repr(kind.value) for kind in Kernels)
        raise ValueError(f"tflite: kernels {kernels!r} are unknown; there are {known}") from None


def _interpreter(content: bytes, where: str, kernels: Kernels, threads: int) -> Any:
    converter.require("ai_edge_litert", "litert")
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolvers = {
        Kernels.XNNPACK: OpResolverType.AUTO,
        Kernels.OPTIMIZED: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        Kernels.REFERENCE: OpResolverType.BUILTIN_REF,
    }
    try:
        interpreter = Interpreter(
            model_content=content,
            num_threads=threads,
            experimental_op_resolver_type=resolvers[kernels],
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: the interpreter refuses the file: {error}") from error
    return interpreter
