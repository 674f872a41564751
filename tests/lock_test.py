"""The lock: pins and hashes all that pyproject asks for, names no host, and is what is installed here."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Accelerators are chosen where they are; what benchmarks compare with is gigabytes.
UNLOCKED_EXTRAS = {"cuda", "tpu", "benchmarks"}


def pins() -> dict[str, list[tuple[Version, Marker | None]]]:
    found: dict = {}
    for line in re.findall(r"^(\w[^\\\n]*)\\?$", LOCK, re.MULTILINE):
        requirement = Requirement(line.strip().rstrip("\\").strip())
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        name = canonicalize_name(requirement.name)
        found.setdefault(name, []).append((Version(specifier.version), requirement.marker))
    return found


def wanted() -> list[str]:
    extras = PROJECT["optional-dependencies"]
    locked = [
        text for name, texts in extras.items() if name not in UNLOCKED_EXTRAS for text in texts
    ]
    return [*PROJECT["dependencies"], *locked]


@pytest.mark.parametrize("text", wanted())
def test_every_requirement_is_pinned_within_its_range(text: str):
    requirement = Requirement(text)
    versions = [version for version, _ in pins()[canonicalize_name(requirement.name)]]
    assert versions
    assert all(version in requirement.specifier for version in versions)


def test_every_pin_has_hashes_and_nothing_names_a_host():
    blocks = re.split(r"\n(?=\w)", LOCK.strip())
    assert len(blocks) > 50
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--find-links" not in LOCK


def test_what_is_installed_is_what_the_lock_says():
    """An environment with something else in it could pass tests that a fresh one fails."""
    ours = {canonicalize_name(PROJECT["name"]), "pip"}
    locked = pins()
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        if name in ours:
            continue
        assert name in locked, f"{name} is installed and not in requirements.lock"
        here = [v for v, marker in locked[name] if marker is None or marker.evaluate()]
        assert Version(distribution.version) in here, name
