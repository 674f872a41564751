"""A drawing as a file of its own has the page's colours, light and dark, and needs nothing else."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jaxmini.run.report
from jaxmini.run.report import svg

COLOURS = Path(jaxmini.run.report.__file__).with_name("colours.css").read_text()


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
