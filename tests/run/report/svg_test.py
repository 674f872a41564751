"""SVG: an element that a page can hold beside others: its own ids, the page's colours and fonts."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

import jaxmini.run.report
from jaxmini.run.report import svg

COLOURS = Path(jaxmini.run.report.__file__).with_name("colours.css").read_text()


def paint(figure: Figure) -> None:
    axes = figure.subplots()
    axes.plot([0, 1, 2], [1, 3, 2], color=svg.ACCENT, clip_on=True)
    axes.fill_between([0, 1], [0, 1], color=svg.MUTED, hatch="/")
    axes.set_title('a < b & "c"', color=svg.INK, fontsize=16)
    axes.text(1, 2, "世界", color=svg.INK)


def drawn(name: str = "one") -> str:
    return svg.draw(paint, (300, 120), name, "title <1>", "what & why")


def test_it_is_one_element_of_its_size_with_an_accessible_name():
    root = ElementTree.fromstring(drawn())
    assert root.tag == "svg"
    assert root.attrib == {
        "viewBox": "0 0 300 120",
        "width": "300",
        "role": "img",
        "aria-labelledby": "one-title one-desc",
    }
    assert [(part.tag, part.get("id"), part.text) for part in root[:2]] == [
        ("title", "one-title", "title <1>"),
        ("desc", "one-desc", "what & why"),
    ]
    texts = {element.text for element in root.iter("text")}
    assert {'a < b & "c"', "世界"} <= texts
    assert not {element.tag for element in root.iter()} & {"style", "metadata"}


def test_two_figures_of_a_page_share_no_id_and_refer_to_their_own():
    found = {}
    for name in ("one", "two"):
        text = drawn(name)
        ids = set(re.findall(r'\bid="([^"]*)"', text))
        assert {known.partition("-")[0] for known in ids} == {name}
        used = set(re.findall(r'(?:href="|url\()#([^")]*)', text))
        assert used
        assert used <= ids
        found[name] = ids
    assert not found["one"] & found["two"]
    assert drawn("one").replace("one-", "two-") == drawn("two")  # nothing else depends on the name


def test_no_colour_and_no_font_of_its_own_is_left():
    text = drawn()
    for variable in ("--ink", "--muted", "--accent", "--line"):
        assert f"var({variable})" in text
    assert "#010f" not in text
    assert "DejaVu" not in text
    assert "font-family" not in text
    assert "font-size: 16px" in text
    assert "://" not in text


def test_what_matplotlib_was_told_before_stays():
    before = dict(matplotlib.rcParams)
    drawn()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("id", "axes_1", "n-axes_1"),
        ("href", "#m0", "#n-m0"),
        ("clip-path", "url(#p1)", "url(#n-p1)"),
        ("style", f"stroke: {svg.LINE}; fill: {svg.INK}", "stroke: var(--line); fill: var(--ink)"),
        (
            "style",
            "font: 11.5px 'DejaVu Sans', sans-serif; text-anchor: middle",
            "font-size: 11.5px; text-anchor: middle",
        ),
        ("style", "font: bold 12px 'DejaVu Sans'", "font-size: 12px"),
        (
            "style",
            "font-size: 12px; font-family: 'DejaVu Sans', serif; fill: none",
            "font-size: 12px; fill: none",
        ),
        ("style", "font-family: 'DejaVu Sans'", ""),
        ("transform", "translate(1 2)", "translate(1 2)"),
        ("d", "M 0 0 L 1 1", "M 0 0 L 1 1"),
    ],
)
def test_attributes_are_those_of_the_page(key: str, value: str, expected: str):
    assert svg._restyle(key, value, "n") == expected


def drawing() -> str:
    return svg.draw(lambda figure: figure.text(0.5, 0.5, "a & b"), (80, 40), "a", "Title", "Seen")


def test_a_file_of_its_own_is_an_svg_that_brings_its_colours() -> None:
    root = ElementTree.fromstring(svg.standalone(drawing()))
    name = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{name}svg"
    assert [child.tag for child in root][:3] == [f"{name}title", f"{name}desc", f"{name}style"]
    style = root.find(f"{name}style").text
    assert style.startswith(COLOURS)
    assert "prefers-color-scheme: dark" in style
    assert [text.text for text in root.iter(f"{name}text")] == ["a & b"]


def test_every_colour_it_uses_is_defined() -> None:
    text = svg.standalone(drawing())
    defined = set(re.findall(r"(--\w+):", text))
    assert set(re.findall(r"var\((--\w+)\)", text)) <= defined
    assert "url(" not in re.sub(r"url\(#", "", text)
