"""A .tflite file as a Predict: the file itself is run, with the kernels named, and timed."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxmini.evaluate.accuracy import Predict
from jaxmini.evaluate.encoding import dequantized, encoded
from jaxmini.evaluate.interpreter import (
    Interpreter,
    Kernels,
    in_batches,
    opened,
    require_sizes,
)
from jaxmini.export import edges, flatbuffer, metadata

__all__ = ["Kernels", "Latency", "latency", "tflite_integers", "tflite_predict"]


@dataclasses.dataclass(frozen=True)
class Latency:
    """Wall time of one run, a batch of the file, in milliseconds, over ``runs`` runs.

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
    """A file that jaxmini wrote, of any batch, and how its input and output are read."""

    def __init__(
        self,
        source: Path | str | bytes,
        kernels: Kernels | str,
        threads: int,
        signature: str | None = None,
    ):
        self.interpreter = Interpreter(
            source, kernels=kernels, threads=threads, signature=signature
        )
        self.batch, *shape = self.interpreter.input.shape
        self.input_shape = tuple(shape)
        self.dtype = self.interpreter.input.dtype
        description = metadata.describe_file(source)
        described = description.get("input")
        encoding = described.get("encoding") if isinstance(described, dict) else None
        _, where = flatbuffer.contents(source)
        if encoding is None or encoding != metadata.ENCODINGS.get(self.dtype.name):
            raise ValueError(
                f"{where}: its metadata says that its {self.dtype} input takes {encoding!r}; damaged"
            )
        self.mean = _mean(description, where) if self.dtype == np.int16 else 0

    def encode(self, images: np.ndarray) -> np.ndarray:
        """uint8 images [N, H, W, C] -> what the file's input takes."""
        return encoded(check_images(images, self.input_shape, "tflite"), self.dtype, self.mean)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """The file's own outputs -> float32 logits."""
        if outputs.dtype == np.float32:
            return outputs
        return dequantized(outputs, self.interpreter.output)

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """uint8 images [N, H, W, C] -> the file's own outputs [N, C]; none for no images."""
        entering = self.encode(images)
        if not len(entering):
            output = self.interpreter.output
            return np.zeros((0, *output.shape[1:]), output.dtype)
        batches = in_batches(entering, self.batch)
        return np.concatenate([self.interpreter.run(batch) for batch in batches])[: len(images)]

    def integers(self, images: np.ndarray) -> np.ndarray:
        """uint8 images [N, H, W, C] -> what the integer network in the file computes, its integers [N, C]."""
        outputs, grid = self.outputs(images), self.integer_output
        if outputs.dtype == grid.dtype:
            return outputs
        steps = outputs.astype(np.float64) / grid.scale + grid.zero_point
        return np.rint(steps).astype(grid.dtype)

    @property
    def integer_output(self) -> flatbuffer.Tensor:
        """The output of the integer network in the file, without what makes floats of it."""
        file = edges.core(self.interpreter.file)
        return file.tensors[file.outputs[0]]


def _mean(description: dict[str, Any], where: str) -> int:
    """The pixel that is 0 in the file's network."""
    try:
        return round(255 * description["normalization"]["mean"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{where}: its metadata tells no mean of its pixels ({error!r}); damaged"
        ) from error


def tflite_predict(
    source: Path | str | bytes,
    *,
    kernels: Kernels | str = Kernels.XNNPACK,
    threads: int = 1,
    signature: str | None = None,
) -> Predict:
    """A file as a Predict: uint8 images [B, H, W, C] -> float32 logits [B, classes], dequantized.

    Any number of images will do, none too, whatever the file's own batch.
    The file is run once in a process of its own first: a damaged one may crash the interpreter.

    Args:
        source: path or bytes of a file that ``jaxmini.export.tflite`` wrote.
        kernels: which implementation of the operators runs.
        threads: of the interpreter.
        signature: ``embedding`` for the vectors before the head, of a file that has them.

    Raises:
        ValueError: not such a file, a file cut short or one that crashes the interpreter, unknown
            kernels or signature; later, images of another shape.
        TypeError: threads is no whole number.
        ImportError: the interpreter is not installed.
    """
    runner = _Runner(source, kernels, threads, signature)
    return lambda images: runner.decode(runner.outputs(images))


def tflite_integers(
    source: Path | str | bytes,
    *,
    kernels: Kernels | str = Kernels.XNNPACK,
    threads: int = 1,
    signature: str | None = None,
) -> Predict:
    """An integer file's own answers: uint8 images [B, H, W, C] -> int8 (or int16) logits [B, classes].

    Where the file gives floats of its integers, they are taken back to the integers they stand for.

    Raises:
        ValueError: as ``tflite_predict``, or the network in the file is not one of integers.
    """
    runner = _Runner(source, kernels, threads, signature)
    dtype = runner.integer_output.dtype
    if dtype.name not in edges.INTEGERS:
        raise ValueError(f"tflite_integers: the file's output is {dtype}, not int8")
    return runner.integers


def latency(
    source: Path | str | bytes,
    *,
    threads: int = 1,
    kernels: Kernels | str = Kernels.XNNPACK,
    warmup: int = 10,
    runs: int = 100,
) -> Latency:
    """How long one run of a file takes, without reading its input and output formats.

    The file is run once in a process of its own first: a damaged one may crash the interpreter.

    Args:
        source: path or bytes of any file, of any number of inputs and outputs.
        threads: of the interpreter.
        kernels: which implementation of the operators runs.
        warmup: runs before the clock starts.
        runs: measured runs, at least 1.

    Raises:
        ValueError: not such a file, a file cut short or one that crashes the interpreter, unknown
            kernels; ``runs`` or ``threads`` below 1, ``warmup`` below 0.
        ImportError: the interpreter is not installed.
    """
    file, interpreter = opened(source, kernels, threads, require=require_sizes)
    inputs = {index: _noise(file.tensors[index]) for index in file.inputs}

    def run() -> None:
        for index, numbers in inputs.items():
            interpreter.set_tensor(index, numbers)
        interpreter.invoke()
        for index in file.outputs:
            interpreter.get_tensor(index)

    return timed(run, warmup, runs)


def timed(run: Callable[[], object], warmup: int, runs: int) -> Latency:
    """How long a call takes that runs a file on one image.

    Raises:
        ValueError: ``runs`` below 1, ``warmup`` below 0.
    """
    if runs < 1:
        raise ValueError(f"latency: runs is {runs}; it must be at least 1")
    if warmup < 0:
        raise ValueError(f"latency: warmup is {warmup}; it must be at least 0")
    for _ in range(warmup):
        run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    low, median, high = np.percentile(times, [10, 50, 90])
    return Latency(float(median), float(low), float(high), runs)


def check_images(images: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The images, seen to be uint8 [N, *shape].

    Raises:
        ValueError: they are not.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise ValueError(
            f"{where}: expected uint8 images [B, {', '.join(map(str, shape))}], "
            f"got {images.dtype}{list(images.shape)}"
        )
    return images


def _noise(tensor: flatbuffer.Tensor) -> np.ndarray:
    """Random numbers for an input: floats of 0..1, all of int8, uint8 and int16, otherwise 0 and 1.

    Wide integers may be indices of a table, which the kernels do not check.
    """
    rng = np.random.default_rng(0)
    if np.issubdtype(tensor.dtype, np.floating):
        return np.asarray(rng.random(tensor.shape), tensor.dtype)
    if tensor.dtype in (np.int8, np.uint8, np.int16):
        ends = np.iinfo(tensor.dtype)
        integers = rng.integers(ends.min, ends.max, tensor.shape, tensor.dtype, endpoint=True)
        return np.asarray(integers, tensor.dtype)
    return np.asarray(rng.integers(0, 2, tensor.shape), tensor.dtype)
