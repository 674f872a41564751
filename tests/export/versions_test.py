"""Versions: the ranges are those of pyproject.toml, and a release outside of them is refused by its name."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from jaxmini.export import Artifact, converter, tflite
from jaxmini.export.versions import TESTED, Package, require_tested

ROOT = Path(__file__).parent.parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BACK_ENDS = [
    Requirement(text) for name in ("jax2tf", "litert", "micro", "onnx") for text in EXTRAS[name]
]
# What installs rightly and is never imported by jaxmini.
NOT_IMPORTED = {"backports.strenum"}


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    require_tested.cache_clear()
    yield
    require_tested.cache_clear()


def test_the_ranges_are_those_of_pyproject():
    stated = {one.name: one.specifier for one in BACK_ENDS if one.name not in NOT_IMPORTED}
    ours = {
        name: SpecifierSet(tested.releases)
        for tested in TESTED.values()
        for name in tested.distributions
    }
    assert ours == stated


@pytest.mark.parametrize("module", TESTED)
def test_what_is_installed_here_is_tested(module: str):
    pytest.importorskip(module)
    require_tested(module, "any")


@pytest.mark.parametrize(
    ("version", "releases", "is_tested"),
    [
        ("2.21.0", ">=2.21,<2.22", True),
        ("2.21.3+cpu", ">=2.21,<2.22", True),
        ("2.21.3rc1", ">=2.21,<2.22", True),
        ("2.22.0rc1", ">=2.21,<2.22", False),
        ("2.3.0.post1", "==2.3.*", True),
        ("2.30.0", "==2.3.*", False),
        ("0.dev20261023182760", "==0.dev20261023182759", False),
        ("2021-nightly", ">=2", False),
    ],
)
def test_odd_versions(
    version: str, releases: str, is_tested: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(TESTED, "onnx", Package(releases, ("onnx",)))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    if is_tested:
        require_tested("onnx", "onnx")
    else:
        with pytest.raises(ImportError, match=rf"onnx {re.escape(version)} is installed"):
            require_tested("onnx", "onnx")


@pytest.mark.parametrize(
    ("module", "extra", "version", "message"),
    [
        ("ai_edge_litert", "litert", "2.4.0", r"ai-edge-litert 2.4.0 is .* ai-edge-litert==2.3.\*"),
        ("litert_converter", "litert", "0.4.9", r"litert-converter 0.4.9 is .*==0.5.\*"),
        ("onnx", "onnx", "1.24.0", r"onnx 1.24.0 is .* onnx>=1.23,<1.24"),
        ("onnxruntime", "onnx", "1.30.1", r"onnxruntime 1.30.1 is .*>=1.31,<1.32"),
        ("tensorflow", "jax2tf", "2.22.0", r"tensorflow-cpu 2.22.0, .* tensorflow-cpu>=2.21,<2.22"),
        ("tflite_micro", "micro", "1.0", r"tflite-micro 1.0 is .*==0.dev"),
        ("flatbuffers", "litert", "24.3.25", r"flatbuffers 24.3.25 is .*>=25"),
    ],
)
def test_an_untested_release_is_refused(
    module: str, extra: str, version: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip(module)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(ImportError, match=rf"{message}.*pip install 'jaxmini\[{extra}\]'"):
        converter.require(module, extra)


def test_any_of_the_names_of_a_package_will_do(monkeypatch: pytest.MonkeyPatch):
    def version(name: str) -> str:
        if name == "tensorflow":
            return "2.21.5"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    require_tested("tensorflow", "jax2tf")
    with pytest.raises(ImportError, match="onnx of no known release is installed; .* onnx>=1.23"):
        require_tested("onnx", "onnx")


def test_nothing_is_written_with_an_untested_converter(
    float_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = importlib.metadata.version

    def version(name: str) -> str:
        return "0.6.0" if name == "litert-converter" else found(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ImportError, match="litert-converter 0.6.0 is installed; jaxmini is tested"):
        tflite(float_artifact, tmp_path / "x.tflite", backend="litert")
    assert not [*tmp_path.iterdir()]
