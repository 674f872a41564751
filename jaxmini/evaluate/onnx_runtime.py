"""An .onnx file as a Predict: the file itself is run by ONNX Runtime on the CPU, and timed."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxmini.evaluate.accuracy import Predict
from jaxmini.evaluate.interpreter import check_threads
from jaxmini.evaluate.runtime import Latency, check_images, timed
from jaxmini.export import converter
from jaxmini.export.onnx import describe_onnx
from jaxmini.export.signature import OUTPUT


class _Session:
    """A file that jaxmini wrote, as it runs."""

    def __init__(self, source: Path | str | bytes, optimized: bool, threads: int) -> None:
        check_threads("onnx", threads)
        converter.require("onnxruntime", "onnx")
        self.description = describe_onnx(source)
        import onnxruntime

        options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors, which are raised as well
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
        )
        self._native = _started(onnxruntime, source, options)
        self.source = self.description["input"]
        self.batch, *self.shape = self.source["shape"]
        self.dtype = np.dtype(self.source["dtype"])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 images [N, H, W, C], or whatever else the file takes -> float32 logits [N, C]."""
        images = self._checked(images)
        if not len(images):  # of the answer to one batch of zeros
            return self.run(np.zeros((self.batch or 1, *self.shape), self.dtype))[:0]
        if self.batch in (None, len(images)):
            return self.run(images)
        rows = np.resize(np.arange(len(images)), -(-len(images) // self.batch) * self.batch)
        batches = rows.reshape(-1, self.batch)
        return np.concatenate([self.run(images[batch]) for batch in batches])[: len(images)]

    def run(self, images: np.ndarray) -> np.ndarray:
        """The file's own answer to as many images as it takes at a time."""
        return self._native.run([OUTPUT], {self.source["name"]: images})[0]

    def _checked(self, images: np.ndarray) -> np.ndarray:
        if self.dtype == np.uint8:
            return check_images(images, tuple(self.shape), "onnx")
        images = np.asarray(images)
        if images.dtype != self.dtype or list(images.shape[1:]) != self.shape:
            raise ValueError(
                f"onnx: expected {self.source['name']} {self.dtype} "
                f"[B, {', '.join(map(str, self.shape))}], got {images.dtype}{list(images.shape)}"
            )
        return images


def onnx_predict(
    source: Path | str | bytes, *, optimized: bool = True, threads: int = 1
) -> Predict:
    """A file as a Predict: uint8 images [B, H, W, C] -> float32 logits [B, classes].

    A file of ``onnx_file`` takes what its own description says, int32 tokens [B, T] for one.

    Args:
        source: path or bytes of a file that ``jaxmini.export.onnx`` or ``onnx_file`` wrote.
        optimized: let the runtime change the graph, as it does by default: what stands between Q and DQ
            nodes then runs in integers. Otherwise every node runs as it stands, in floats.
        threads: of the runtime.

    Raises:
        ValueError: not such a file, threads not in 1..1024; later, images of another shape or dtype.
        TypeError: threads is no whole number.
        ImportError: onnx or onnxruntime is not installed.
    """
    return _Session(source, optimized, threads).logits


def onnx_integers(
    source: Path | str | bytes, *, optimized: bool = True, threads: int = 1
) -> Predict:
    """An int8 file's answers in steps of their grid: uint8 images [B, H, W, C] -> int8 [B, classes].

    Raises:
        ValueError: as ``onnx_predict``, or the file's variant is not int8.
    """
    session = _Session(source, optimized, threads)
    output = session.description["output"]
    if "scale" not in output:
        variant = session.description["variant"]
        raise ValueError(f"onnx_integers: the file's variant is {variant}, not int8")
    scale, zero_point = np.float32(output["scale"]), output["zero_point"]

    def integers(images: np.ndarray) -> np.ndarray:
        return (np.round(session.logits(images) / scale) + zero_point).astype(np.int8)

    return integers


def onnx_latency(
    source: Path | str | bytes, *, threads: int = 1, warmup: int = 10, runs: int = 100
) -> Latency:
    """How long a file takes for one picture, as the runtime runs it by default.

    Args:
        source: path or bytes of a file that ``jaxmini.export.onnx`` wrote.
        threads: of the runtime.
        warmup: runs before the clock starts.
        runs: measured runs, at least 1.

    Raises:
        ValueError: as ``onnx_predict``; ``runs`` below 1, ``warmup`` below 0, or a file of fixed batches
            of more than one picture.
    """
    session = _Session(source, optimized=True, threads=threads)
    if session.batch not in (None, 1):
        raise ValueError(
            f"onnx_latency: the file takes {session.batch} pictures at a time, not one"
        )
    shape = (1, *session.shape)
    image = np.random.default_rng(0).integers(0, 256, shape).astype(session.dtype)
    return timed(lambda: session.run(image), warmup, runs)


def _started(onnxruntime: Any, source: Path | str | bytes, options: Any) -> Any:
    errors = onnxruntime.capi.onnxruntime_pybind11_state
    content = source if isinstance(source, bytes) else str(source)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidGraph, errors.NotImplemented) as error:
        where = "the file" if isinstance(source, bytes) else source
        raise ValueError(f"{where}: ONNX Runtime refuses the file: {error}") from error
