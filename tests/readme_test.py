"""The README: every Python snippet in it runs as it stands, alone, in an empty folder."""

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from jaxmini import __main__, cpu, recipe

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


@pytest.mark.parametrize("line", re.findall(r"^\$ (jaxmini [^#\n]+)", TEXT, re.MULTILINE))
def test_command_is_understood(line: str):
    _, *arguments = shlex.split(line)
    options = __main__._parse(arguments)
    if "config" in options:
        config = ROOT / options.config
        assert recipe.load(config, options.overrides).recipe != recipe.load(config).recipe


def test_there_are_commands():
    assert len(re.findall(r"^\$ jaxmini ", TEXT, re.MULTILINE)) >= 5


def test_there_are_snippets():
    assert len(snippets()) >= 7


def test_every_file_it_names_is_there():
    for name in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / name).exists(), name
