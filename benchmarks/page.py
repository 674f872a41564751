"""Page: a benchmark's findings, printed as a table and written to ``docs/results`` with how they came about.

A page names the command, the date, the kind of machine and its load; never a host or a folder of it.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

from jaxmini.run.report.table import Table, markdown, text

RESULTS = Path(__file__).parent.parent / "docs" / "results"
PACKAGES = ("jax", "flax", "optax")


@dataclasses.dataclass(frozen=True)
class Page:
    """What a benchmark found.

    Attributes:
        name: of the page.
        title: its heading.
        method: what was measured, and how; Markdown.
        table: the figures.
        findings: one sentence each.
        picture: an SVG file to show above the table.
        pictured: what is seen in it.
        module: of this package, that wrote the page; of the page's name where it is empty.
    """

    name: str
    title: str
    method: str
    table: Table
    findings: tuple[str, ...] = ()
    picture: str = ""
    pictured: str = ""
    module: str = ""


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The arguments every benchmark takes."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description
    )
    arguments.add_argument("--quick", action="store_true", help="a tiny form: does it run at all?")
    arguments.add_argument("--write", action="store_true", help=f"write docs/results/{name}.md")
    return arguments


def add_trials(parser: argparse.ArgumentParser, name: str, *, seeds: list[int]) -> None:
    """The arguments of a benchmark that trains stages of a config in a folder of its own."""
    parser.add_argument(
        "overrides", nargs="*", metavar="stage.field=value", help="changes to the config's recipe"
    )
    parser.add_argument("--config", default="configs/fashion_mnist.py", help="a recipe's file")
    parser.add_argument(
        "--workdir", type=Path, help="a finished run of that recipe, to take its first stages from"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs") / name, help="of the trials")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds, help="one training a seed")


def show(page: Page, arguments: Sequence[str], *, write: bool) -> None:
    """Print a page, and write it where asked.

    Args:
        page: what was found.
        arguments: of the command line.
        write: put the page, and its picture, into ``docs/results``, in the place of older ones.
    """
    print("\n".join([text(page.table), *page.findings]), flush=True)
    if write:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{page.name}.md").write_text(render(page, arguments), encoding="utf-8")
        if page.picture:
            (RESULTS / f"{page.name}.svg").write_text(page.picture, encoding="utf-8")
        print(f"docs/results/{page.name}.md", flush=True)


def render(page: Page, arguments: Sequence[str]) -> str:
    """The page as Markdown."""
    made = {
        "command": f"`{command(page.module or page.name, arguments)}`",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **machine(),
    }
    parts = [
        f"# {page.title}",
        page.method,
        f"![{page.pictured}]({page.name}.svg)" if page.picture else "",
        markdown(page.table),
        "\n".join(f"- {finding}" for finding in page.findings),
        "\n".join(f"- {key}: {value}" for key, value in made.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def command(name: str, arguments: Sequence[str]) -> str:
    """What was typed; of an absolute path its last part alone."""
    shown = []
    for argument in arguments:
        option, equals, value = argument.rpartition("=")
        shown.append(option + equals + (PurePath(value).name if value.startswith("/") else value))
    return " ".join(["python -m", f"benchmarks.{name}", *shown])


def machine() -> dict[str, str]:
    """Processor, cores and their load, system, Python and the packages that matter."""
    versions = [f"{package} {importlib.metadata.version(package)}" for package in PACKAGES]
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "load": f"{os.getloadavg()[0]:.1f} threads ready to run, the last minute's average",
        "python": f"{platform.python_version()}, {', '.join(versions)}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def method(text: str) -> str:
    """What a benchmark's docstring says of its method: all after the command, on one line."""
    return " ".join(text.split("\n\n", 2)[2].split())


def given(arguments: Sequence[str] | None) -> list[str]:
    """The arguments, those of the process by default."""
    return list(sys.argv[1:] if arguments is None else arguments)
