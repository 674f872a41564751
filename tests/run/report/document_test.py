"""The Markdown document says what the page says, in tables that are well-formed."""

import re

from jaxmini.run.report import document
from jaxmini.run.report.content import FileResult, Report, StageResult, Verdict


def tables(text: str) -> list[list[str]]:
    blocks = (block.split("\n") for block in text.strip().split("\n\n"))
    return [lines for lines in blocks if lines[0].startswith("|")]


def cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


def test_every_table_is_well_formed(sample: Report) -> None:
    found = tables(document.markdown(sample))
    assert (
        len(found) == 9
    )  # results, gates, fidelity, operations of 3 files, layers of one, confusions, provenance
    for lines in found:
        assert {len(cells(line)) for line in lines} == {len(cells(lines[0]))}
        assert all(re.fullmatch(r" -{3}:? ", cell) for cell in cells(lines[1]))


def test_sections(sample: Report) -> None:
    text = document.markdown(sample)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Results",
        "Gates",
        "Notes",
        "Fidelity",
        "Files",
        "Confusions",
        "Provenance",
        "How it was made",
    ]
    assert (
        "| max\\_latency\\_ratio | int8-litert.tflite | 1.022 times int8-jax2tf.tflite "
        "| at most 1.02 times int8-jax2tf.tflite | FAIL |"
    ) in text
    assert len(re.findall(r"\| PASS \|$", text, re.MULTILINE)) == 3


def test_layers_are_told_or_why_they_are_not(sample: Report) -> None:
    text = document.markdown(sample)
    assert "- layer by layer, on 16 test pictures\n" in text
    assert "- layer by layer, not measured: it is a sample\n" in text
    assert text.count("layer by layer") == 2
    assert "Rounded alone, block3/project:conv (21.2 dB) loses most" in text
    assert "Of 20 layers, all in report.json, those that lose most:" in text


def test_the_spread_of_a_latency_is_a_width_and_called_one() -> None:
    file = FileResult(
        "a.tflite", "int8", "litert", 10, accuracy=0.5, latency_ms=0.002, latency_spread=7e-5
    )
    assert (
        "- latency of one picture: median 0.00200 ms, spread (10th to 90th percentile) 0.000070 ms\n"
    ) in document.markdown(Report("run", files=(file,)))


def test_hostile_names_stay_in_their_cells() -> None:
    name = "a|b\n# c <script> `"
    stage = StageResult(name, "supervised", name, accuracy=0.5)
    file = FileResult(name, name, name, 10, name, ops={name: 1})
    gates = (Verdict(name, name, name, name, passed=True),)
    text = document.markdown(Report(name, stages=(stage,), files=(file,), gates=gates))
    assert "<script" not in text
    for lines in tables(text):
        assert {len(cells(line)) for line in lines} == {len(cells(lines[0]))}


def test_a_fence_is_longer_than_what_it_holds() -> None:
    text = document.markdown(Report("run", command="echo ```` $HOME"))
    assert "`````sh\necho ```` $HOME\n`````\n" in text


def test_an_empty_report_has_no_sections() -> None:
    assert document.markdown(Report("run")) == (
        "# run\n\nNo network and no file of this run was evaluated.\n"
    )
