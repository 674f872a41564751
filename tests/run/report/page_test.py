"""The page stands alone, escapes every name, and leaves out what there is nothing to say of."""

import dataclasses
import html
import re
from html.parser import HTMLParser

import pytest

from jaxmini.run.report import page
from jaxmini.run.report.content import Link, Mistake, Report, StageResult, Verdict

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
VOID = {"meta", "img", "br", "path", "circle", "use"}


class Reader(HTMLParser):
    """What a page holds; raises where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and self.open.pop() != tag:
            raise ValueError(f"</{tag}> closes another tag")


@pytest.fixture(scope="module")
def sample_page(sample: Report) -> str:
    return page.html(sample)


def headings(text: str) -> list[str]:
    return [found.strip() for found in re.findall(r"<h2>([^<]*)", text)]


def test_the_page_has_every_section(sample_page: str) -> None:
    assert headings(sample_page) == [
        "Results",
        "Gates",
        "What accuracy costs",
        "Where it is wrong",
        "Fidelity",
        "Stages",
        "Files",
        "Provenance",
        "How it was made",
    ]


def test_the_page_asks_nothing_of_a_network(sample_page: str) -> None:
    assert "://" not in sample_page
    assert "@import" not in sample_page
    reader = Reader(sample_page)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "iframe", "object", "base", "form"}
    sources = [attributes["src"] for _, attributes in reader.tags if "src" in attributes]
    assert len(sources) == 12
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_tags_are_closed_in_order(sample_page: str) -> None:
    assert Reader(sample_page).open == []


def test_ids_are_unique(sample_page: str) -> None:
    ids = [attributes["id"] for _, attributes in Reader(sample_page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"results", "curve-0-0-title", "cost-size-title", "layers-1-title"} <= set(ids)


def test_every_figure_of_the_report_is_on_the_page(sample: Report, sample_page: str) -> None:
    plain = html.unescape(sample_page)
    for file in sample.files:
        assert f"{file.bytes:,} bytes" in plain
        assert all(found in plain for found in file.checks.values())
    for link in sample.provenance:
        assert link.digest[:12] in plain
    assert sample.command in plain
    assert '"temperature": 0.2' in plain


def test_layers_are_drawn_or_said_not_to_be(sample_page: str) -> None:
    assert re.findall("<h4>Layer by layer, (.*)</h4>", sample_page) == [
        "on 16 test pictures",
        "not measured: it is a sample",
    ]
    assert re.findall(r'<figure class="scroll layers"', sample_page) == [
        '<figure class="scroll layers"'
    ]
    assert sample_page.count("rings are the layer rounded alone") == 1


def test_a_failed_gate_is_said_at_the_top(sample_page: str) -> None:
    header = sample_page.split("</header>")[0]
    assert '<p class="verdict failed">1 of 4 gates failed: max_latency_ratio' in header


def test_every_gate_is_on_the_page(sample: Report, sample_page: str) -> None:
    (section,) = re.findall(r'<section id="gates">.*?</section>', sample_page, re.DOTALL)
    assert re.findall(r'<li class="(\w+)"><b>(\w+)</b>', section) == [
        *[("passed", "PASS")] * 3,
        ("failed", "FAIL"),
    ]
    plain = section.replace("\N{NO-BREAK SPACE}", " ")
    for verdict in sample.gates:
        assert f"{verdict.gate} of {verdict.of}" in plain
        assert f"{verdict.measured}; {verdict.limit}" in plain


def test_names_cannot_become_tags() -> None:
    stage = StageResult(HOSTILE, HOSTILE, HOSTILE, accuracy=0.5, note=HOSTILE)
    report = Report(
        HOSTILE,
        command=HOSTILE,
        created=HOSTILE,
        machine={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        recipe={HOSTILE: HOSTILE},
        stages=(stage,),
        labels=(HOSTILE, "b"),
        confusion=((1, 2), (3, 4)),
        confusion_of=HOSTILE,
        provenance=(Link(HOSTILE, HOSTILE),),
        gates=(Verdict(HOSTILE, HOSTILE, HOSTILE, HOSTILE, passed=False),),
    )
    text = page.html(report)
    tags = {tag for tag, _ in Reader(text).tags}
    assert "script" not in tags
    assert "img" not in tags
    assert "&lt;script&gt;" in text


def test_a_picture_must_be_a_png() -> None:
    mistake = Mistake(3, 0, 1, 0.5, b'"><script>')
    with pytest.raises(ValueError, match="the picture of mistake 3 is not a PNG file"):
        page.html(Report("run", labels=("a", "b"), mistakes=(mistake,)))


def test_an_empty_report_is_a_page() -> None:
    text = page.html(Report("run"))
    assert headings(text) == []
    assert Reader(text).open == []
    assert "No network and no file of this run was evaluated." in text


def test_one_stage_without_figures() -> None:
    text = page.html(Report("run", stages=(StageResult("a", "supervised", "digits"),)))
    assert headings(text) == ["Results", "Stages"]
    assert "<svg" not in text


def test_no_mistakes() -> None:
    report = Report("run", labels=("a", "b"), confusion=((5, 0), (0, 5)))
    text = page.html(report)
    assert "No test picture was answered wrongly." in text
    assert headings(text) == ["Where it is wrong"]


def test_only_measured_figures_are_key_figures(sample: Report) -> None:
    (file,) = sample.files[1:2]
    unknown = dataclasses.replace(file, latency_ms=None, agreement=None)
    found = dict(page.key_figures(dataclasses.replace(sample, files=(unknown,), gates=())))
    assert found == {"accuracy": "96.11%", "size": "79.6 kB", "points over student": "−0.28"}


def test_the_spread_of_a_latency_is_a_width_and_called_one(sample: Report) -> None:
    file = dataclasses.replace(sample.files[0], latency_spread=7e-5)
    text = page.html(dataclasses.replace(sample, files=(file,), gates=()))
    assert "latency, spread (10th to 90th percentile)" in text
    assert "0.000070" in text


def test_numbers_stay_with_their_units() -> None:
    assert (
        page.unbroken("right in 79.6 kB: 3 stages") == "right in 79.6\N{NO-BREAK SPACE}kB: 3 stages"
    )
