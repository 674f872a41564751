"""Written: what an export has left on the disk, and how that is run; one function a format."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxmini.evaluate.accuracy import Predict
from jaxmini.evaluate.file_cost import float_ops
from jaxmini.evaluate.onnx_runtime import onnx_integers, onnx_latency, onnx_predict
from jaxmini.evaluate.runtime import (
    Kernels,
    Latency,
    latency,
    tflite_integers,
    tflite_predict,
    timed,
)
from jaxmini.evaluate.saved_model import saved_model_predict
from jaxmini.export import (
    Artifact,
    ConversionError,
    flatbuffer,
    load_stablehlo,
    onnx,
    saved_model,
    stablehlo,
    tflite,
)
from jaxmini.export.onnx import float_ops_of
from jaxmini.export.parity import Parity
from jaxmini.run.formats import Onnx, SavedModel, StableHLO
from jaxmini.run.stage import Export
from jaxmini.run.variants import ACTIVATION_BITS

# As before a .tflite file is timed.
WARMUP, RUNS = 10, 100
IMAGES, ALL_AT_ONCE = 128, 10**9


class Written(NamedTuple):
    """A file, or a folder of files.

    Attributes:
        predict: the file itself as a Predict.
        batch: images at a time that it is best given.
        timing: of one image, of a batch its share; None where it was not measured.
        ops: operation -> how often it occurs; empty where the format does not tell.
        float_ops: those that read or give floats; None where the format does not tell.
        compared: what was compared while it was written, and the finding.
        integers: ways to run an integer file, each as a Predict of its integer logits.
    """

    predict: Predict
    batch: int = IMAGES
    timing: Latency | None = None
    ops: Mapping[str, int] = {}
    float_ops: Mapping[str, int] | None = None
    compared: Mapping[str, str] = {}
    integers: Mapping[str, Predict] = {}


def write(export: Export, artifact: Artifact, path: Path) -> Written:
    """Write an artifact as the export says.

    Raises:
        ConversionError: the converter failed; names the file.
        ParityError: an integer in a .tflite file is not the trained one.
    """
    try:
        return _write(export, artifact, path)
    except ConversionError as error:
        raise ConversionError(
            f"{export.file_name} of stage {export.stage.name!r} could not be written: {error}\n"
            "What was trained is kept; the same command starts at the files again"
        ) from error


def _write(export: Export, artifact: Artifact, path: Path) -> Written:
    match export:
        case Onnx():
            return _onnx(export, artifact, path)
        case StableHLO():
            return _stablehlo(artifact, path)
        case SavedModel():
            saved_model(artifact, path)
            return Written(saved_model_predict(path), ALL_AT_ONCE)
    return _tflite(export, artifact, path)


def bytes_of(path: Path) -> int:
    """The length of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in _files(path))


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's content; of a folder, that of its files' names and digests."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()} {digest_of(file)}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _tflite(export: Export, artifact: Artifact, path: Path) -> Written:
    exported = tflite(
        artifact, path, variant=export.variant, backend=export.backend, layout=export.layout
    )
    ways = (Kernels.XNNPACK, Kernels.REFERENCE) if export.variant in ACTIVATION_BITS else ()
    return Written(
        tflite_predict(path),
        batch=max(1, IMAGES // export.layout.batch) * export.layout.batch,  # none is filled up
        timing=_of_one(latency(path), export.layout.batch),
        ops=exported.ops,
        float_ops=float_ops(flatbuffer.read(path)),
        compared=_compared(exported.parity),
        integers={f"{kernels} kernels": tflite_integers(path, kernels=kernels) for kernels in ways},
    )


def _of_one(timing: Latency, batch: int) -> Latency:
    """The share of one image in the time of a batch."""
    low, median, high = (time / batch for time in (timing.low, timing.median, timing.high))
    return Latency(median, low, high, timing.runs)


def _onnx(export: Onnx, artifact: Artifact, path: Path) -> Written:
    exported = onnx(artifact, path, variant=export.variant)
    ways = {"ONNX Runtime": True, "ONNX Runtime as it stands": False}
    return Written(
        onnx_predict(path),
        timing=onnx_latency(path, warmup=WARMUP, runs=RUNS),
        ops=exported.ops,
        float_ops=float_ops_of(path),
        compared=_compared(exported.parity),
        integers={
            way: onnx_integers(path, optimized=optimized)
            for way, optimized in ways.items()
            if export.variant == "int8"
        },
    )


def _stablehlo(artifact: Artifact, path: Path) -> Written:
    predict = load_stablehlo(stablehlo(artifact, path))
    image = np.random.default_rng(0).integers(0, 256, (1, *artifact.input_shape), np.uint8)
    timing = timed(lambda: jax.block_until_ready(predict(image)), WARMUP, RUNS)
    return Written(predict, timing=timing)


def _compared(parity: Parity | None) -> dict[str, str]:
    """What the exporter found when it read the file back (it refuses a file in which anything differs)."""
    counts = {} if parity is None else dataclasses.asdict(parity)
    return {
        name.replace("_", " "): f"{count:,} compared, 0 differ"
        for name, count in counts.items()
        if count
    }
