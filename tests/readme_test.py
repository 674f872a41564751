"""The README: every Python snippet in it runs as it stands, alone, in an empty folder."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from jaxmini import cpu

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^## ([^\n]+)$|^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def snippets() -> list:
    section, found = "", []
    for heading, code in SNIPPETS:
        section = heading or section
        if code:
            found.append(pytest.param(code, id=f"{section}-{len(found)}"))
    return found


@pytest.fixture
def _programs_of_other_tests() -> Iterator[None]:
    """They keep their convolutions, and those that come later get XLA's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "jaxmini.cpu.* were compiled before", RuntimeWarning)
        yield
        cpu.uninstall()


@pytest.mark.usefixtures("_programs_of_other_tests")
@pytest.mark.parametrize("code", snippets())
def test_snippet_runs(code: str, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_there_are_snippets():
    assert len(snippets()) >= 7


def test_every_file_it_names_is_there():
    for name in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / name).exists(), name
