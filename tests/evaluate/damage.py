"""Damage of files, and every way of a file into this program, tried in a process that native code may end."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxmini import export
from jaxmini.demo import network
from jaxmini.evaluate import function_parity
from jaxmini.evaluate.accuracy import Predict
from jaxmini.evaluate.benchmark import benchmark
from jaxmini.evaluate.encoding import encoded
from jaxmini.evaluate.kernel_parity import kernel_parity
from jaxmini.evaluate.parity import file_parity
from jaxmini.evaluate.runtime import latency, tflite_integers, tflite_predict
from jaxmini.evaluate.severed import severed
from jaxmini.export import Artifact
from tests.export.tampering import find

ROOT = Path(__file__).parents[2]
FILES, ARTIFACT = "files", "artifact"
RAN = "ran"


def cut(content: bytes, seed: int) -> bytes:
    """The file cut short."""
    return content[: np.random.default_rng(seed).integers(0, len(content))]


def flipped(content: bytes, seed: int) -> bytes:
    """The file with bits of eight bytes flipped anywhere, or of one in its tables, which are at its ends."""
    rng, size = np.random.default_rng(seed), len(content)
    count, first, end = [(8, 0, size), (1, 8, 600), (1, size - 3000, size)][seed % 3]
    changed = np.frombuffer(content, np.uint8).copy()
    changed[rng.integers(first, end, count)] ^= rng.integers(1, 256, count, np.uint8)
    return changed.tobytes()


def absent(name: str, operand: int) -> Callable[[Any, Any], None]:
    """The edit that takes an operand from an operator."""

    def edit(model: Any, graph: Any) -> None:
        find(model, name).inputs[operand] = -1

    return edit


class Given(NamedTuple):
    """What doors take besides a file.

    Attributes:
        artifact: of which the undamaged file was made, of int8 pictures.
        images: of its shape.
        function: what the file computes of them.
        folder: where what is written goes.
    """

    artifact: Artifact
    images: np.ndarray
    function: Predict
    folder: Path


def _kernel_parity(path: Path, given: Given) -> object:
    return kernel_parity(path, encoded(given.images, np.dtype(np.int8)), kernels="xnnpack")


def _function_parity(path: Path, given: Given) -> object:
    return function_parity(given.function, path, given.images, kernels=KERNELS)


KERNELS = ("xnnpack", "reference")
DOORS: dict[str, Callable[[Path, Given], object]] = {
    "describe_file": lambda path, _: export.describe_file(path),
    "severed": lambda path, _: severed(path),
    "predict": lambda path, given: tflite_predict(path)(given.images),
    "integers": lambda path, given: tflite_integers(path, kernels="reference")(given.images),
    "latency": lambda path, _: latency(path, kernels="optimized", runs=1, warmup=0),
    "benchmark": lambda path, _: benchmark(path, runs=1, warmup=0),
    "file_parity": lambda path, given: file_parity(
        given.artifact, path, given.images, kernels=KERNELS
    ),
    "function_parity": _function_parity,
    "kernel_parity": _kernel_parity,
    "network": lambda path, given: network.answers(network.read(path), given.images),
    "micro": lambda path, given: export.micro(path, given.folder / path.stem),
}


# Those that read a file and do not run it.
READERS = frozenset({"describe_file", "severed"})


class Said(NamedTuple):
    """What became of one file at one door.

    Attributes:
        file, door: their names.
        kind: ``RAN``, or the error's class, with an asterisk if it is no ValueError.
        message: of the error.
    """

    file: str
    door: str
    kind: str
    message: str


def tried(contents: Mapping[str, bytes], artifact: Artifact, folder: Path) -> list[Said]:
    """Every file at every door, in one process that is seen to end well."""
    export.save(artifact, folder / ARTIFACT)
    (folder / FILES).mkdir()
    for name, content in contents.items():
        (folder / FILES / name).write_bytes(content)
    child = subprocess.run(
        [sys.executable, "-m", "tests.evaluate.damage", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = child.stdout.splitlines()
    assert child.returncode == 0, f"after {lines[-1:]}:\n{child.stderr}"
    return [Said(*json.loads(line)) for line in lines]


def _tell(folder: Path) -> None:
    artifact = export.load(folder / ARTIFACT)
    images = np.zeros((2, *artifact.input_shape), np.uint8)
    given = Given(artifact, images, export.predict(artifact), folder)
    for name, door in DOORS.items():
        for path in sorted((folder / FILES).iterdir()):
            try:
                door(path, given)
                said = Said(path.name, name, RAN, "")
            except Exception as error:
                kind = type(error).__name__ + "*" * (not isinstance(error, ValueError))
                said = Said(path.name, name, kind, str(error))
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    _tell(Path(sys.argv[1]))
