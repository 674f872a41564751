"""Versions: the releases of optional packages that jaxmini is tested with, as pyproject.toml states them.

Converters and interpreters change what they write and compute from one minor release to the next.
"""

import functools
import importlib.metadata
from collections.abc import Mapping
from typing import NamedTuple

from packaging.specifiers import SpecifierSet


class Package(NamedTuple):
    """What an optional package is tested as.

    Attributes:
        releases: in the words of pyproject.toml, as ``>=2.21,<2.22`` or ``==2.3.*``.
        distributions: the names under which it is installed; one of them is.
    """

    releases: str
    distributions: tuple[str, ...]


# By the name that is imported.
TESTED: Mapping[str, Package] = {
    "ai_edge_litert": Package("==2.3.*", ("ai-edge-litert",)),
    "flatbuffers": Package(">=25", ("flatbuffers",)),
    "litert_converter": Package("==0.5.*", ("litert-converter",)),
    "onnx": Package(">=1.23,<1.24", ("onnx",)),
    "onnxruntime": Package(">=1.31,<1.32", ("onnxruntime",)),
    "tensorflow": Package(">=2.21,<2.22", ("tensorflow-cpu", "tensorflow")),
    "tflite_micro": Package("==0.dev20261023182759", ("tflite-micro",)),
}


def tested(module: str) -> str:
    """The releases that jaxmini is tested with, as pip takes them: ``onnx>=1.23,<1.24``."""
    return f"{TESTED[module].distributions[0]}{TESTED[module].releases}"


@functools.cache  # asked for every operator that is read, and releases stay while a process runs
def require_tested(module: str, extra: str) -> None:
    """Check that an installed optional package is of a release that is tested.

    Raises:
        ImportError: it is of another, or of one that cannot be told; names it, those that are tested, and
            the extra that brings one.
    """
    package = TESTED[module]
    known = {name: version for name in package.distributions if (version := _version(name))}
    releases = SpecifierSet(package.releases)
    if known and all(releases.contains(version, prereleases=True) for version in known.values()):
        return
    found = ", ".join(f"{name} {version}" for name, version in known.items())
    found = found or f"{module} of no known release"
    raise ImportError(
        f"{found} is installed; jaxmini is tested with {tested(module)}: "
        f"install that with: pip install 'jaxmini[{extra}]'"
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
