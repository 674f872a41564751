"""Converters as child processes: native code that may crash, of which nothing stays in this process.

A folder is the whole protocol: the program and ``options.json`` go in, ``model.tflite`` comes out.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from jaxmini.export import versions, whole
from jaxmini.near_miss import did_you_mean
from jaxmini.record import Json

# Through TensorFlow, and without.
Backend = Literal["jax2tf", "litert"]

# Lines of a converter's stderr worth showing: the cause is at the end.
TAIL_LINES = 15

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # TensorFlow then does not import Keras 3, which is a third of the time it takes to start.
    "TF_USE_LEGACY_KERAS": "1",
}


class ConversionError(RuntimeError):
    """A converter failed or crashed; the message holds the end of what it wrote to stderr."""


def require(module: str, extra: str) -> None:
    """Check that an optional dependency is installed, in a release that is tested.

    Raises:
        ImportError: it is not, or in another release; the message names the tested releases and the extra
            that brings one.
    """
    if importlib.util.find_spec(module) is None:
        raise ImportError(
            f"{module} is not installed; jaxmini is tested with {versions.tested(module)}: "
            f"install that with: pip install 'jaxmini[{extra}]'"
        )
    versions.require_tested(module, extra)


def require_backend(name: str) -> None:
    """Check that there is a back end of that name.

    Raises:
        ValueError: there is none; lists those there are.
    """
    require_known("backend", name, get_args(Backend))


def require_known(what: str, name: str, known: tuple[str, ...]) -> None:
    """Check that a name is among those known.

    Raises:
        ValueError: it is not; lists them, and offers the nearest.
    """
    if name not in known:
        there = ", ".join(known) + did_you_mean(name, known)
        raise ValueError(f"tflite: unknown {what} {name!r}; there are {there}")


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A folder for ``run``, where this system keeps what is temporary; removed at the end.

    Raises:
        OSError: of the disk, that of a full one say; names the folder.
    """
    with tempfile.TemporaryDirectory(prefix="jaxmini-") as folder, whole.naming(Path(folder)):
        yield Path(folder)


def run(script: Path, folder: Path, options: Mapping[str, Json]) -> None:
    """Run a converter's script on a folder.

    Args:
        script: takes the folder as its argument; it sees installed packages, and nothing beside itself.
        folder: holds the program; the converter writes its results there.
        options: what the converter reads from ``options.json``.

    Raises:
        ConversionError: the converter ended with an error or was killed by a signal; names the folder, which
            may be what was full.
    """
    (folder / "options.json").write_text(json.dumps(options))
    child = subprocess.run(
        [sys.executable, "-P", str(script), str(folder)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if child.returncode != 0:
        tail = "\n".join(child.stderr.strip().splitlines()[-TAIL_LINES:])
        raise ConversionError(
            f"{script.name} {_ending(child.returncode)}, in {folder}; its last words:\n{tail}"
        )


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    names = {s.value: s.name for s in signal.Signals}
    return f"crashed with {names.get(-code, 'signal')} (exit code {code})"
