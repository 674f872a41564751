"""Document: a report as Markdown, the same facts as the page without its pictures."""

import json
import re
from collections.abc import Iterable

from jaxmini.run.report import codec, layers, quantity, summary
from jaxmini.run.report.content import FileResult, Report
from jaxmini.run.report.table import Column, Table, escape, visible
from jaxmini.run.report.table import markdown as table


def markdown(report: Report) -> str:
    """The Markdown (GFM) document."""
    parts = [f"# {escape(report.title)}", escape(summary.outcome(report))]
    verdict = summary.verdict(report)
    parts += [f"{escape(verdict)}."] if verdict else []
    parts += _section("Results", [table(summary.closing(report))] if _has_rows(report) else [])
    parts += _section("Gates", [table(summary.gates(report))] if report.gates else [])
    parts += _section("Notes", [_notes(report)] if any(s.note for s in report.stages) else [])
    parts += _section("Fidelity", [table(summary.fidelity(report))] if report.fidelity else [])
    parts += _section("Files", [block for file in report.files for block in _file(file)])
    parts += _section("Confusions", [_confusions(report)] if summary.confusions(report) else [])
    parts += _section("Provenance", [_provenance(report)] if report.provenance else [])
    parts += _section("How it was made", _how(report))
    return "\n\n".join(parts) + "\n"


def _has_rows(report: Report) -> bool:
    return bool(report.stages or report.files)


def _section(title: str, blocks: list[str]) -> list[str]:
    return [f"## {title}", *blocks] if blocks else []


def _notes(report: Report) -> str:
    return _bullets(f"{escape(s.name)}: {escape(s.note)}" for s in report.stages if s.note)


def _file(file: FileResult) -> list[str]:
    facts = [f"{quantity.count(file.bytes)} bytes"]
    if file.agreement is not None:
        facts.append(f"same answer as its network: {quantity.percent(file.agreement)}")
    if file.latency_ms is not None:
        spread = quantity.milliseconds(file.latency_spread, 2)
        median = quantity.milliseconds(file.latency_ms)
        facts.append(
            f"latency of one picture: median {median}, spread (10th to 90th percentile) {spread}"
        )
    facts += [f"{escape(name)}: {escape(found)}" for name, found in file.checks.items()]
    if file.layers_note:
        facts.append(f"layer by layer, {escape(file.layers_note)}")
    blocks = [f"### {escape(file.name)}", _bullets(facts)]
    blocks += [table(summary.operations(file))] if file.ops else []
    return blocks + (_layers(file) if file.layers else [])


def _layers(file: FileResult) -> list[str]:
    all_of_them = f"Of {len(file.layers)} layers, all in report.json, those that lose most:"
    return [escape(layers.sentence(file)), all_of_them, table(layers.table(file))]


def _confusions(report: Report) -> str:
    columns = (Column("truth"), Column("answer"), Column("count", is_quantity=True))
    rows = [(a, b, quantity.count(number)) for a, b, number in summary.confusions(report)]
    return table(Table(columns, (tuple(rows),)))


def _provenance(report: Report) -> str:
    columns = (Column("name"), Column("digest"), Column("made from"))
    rows = [
        (link.name, link.digest, ", ".join(link.made_from) or quantity.MISSING)
        for link in report.provenance
    ]
    return table(Table(columns, (tuple(rows),)))


def _how(report: Report) -> list[str]:
    blocks = [_fenced(report.command, "sh")] if report.command else []
    facts = {"created": report.created} if report.created else {}
    facts |= report.machine | report.versions
    blocks += [_bullets(f"{escape(k)}: {escape(v)}" for k, v in facts.items())] if facts else []
    if report.recipe:
        record = codec.encode(report.recipe, "recipe")
        blocks.append(_fenced(json.dumps(record, indent=2, ensure_ascii=False), "json"))
    return blocks


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _fenced(text: str, language: str) -> str:
    """A block of code, its fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(visible(line) for line in text.split("\n"))
    return f"{fence}{language}\n{lines}\n{fence}"
