"""SVG: a matplotlib figure as an element of a page, in the page's colours, fonts and light or dark.

A figure is drawn in sentinel colours, each of which stands for a CSS variable of ``colours.css``.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from matplotlib import style
from matplotlib.figure import Figure

Drawn = TypeVar("Drawn")

INK, MUTED, LINE, ACCENT = "#010f01", "#010f02", "#010f03", "#010f04"
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
}
UNIT = 72  # units an inch: one unit of a figure is one CSS pixel
FONT_SIZE = 11.5

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxmini",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: measures text alike everywhere
    "font.size": FONT_SIZE,
    "figure.dpi": UNIT,
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 4.0,
    "xtick.major.width": 1.0,
    "ytick.major.size": 0.0,
    "ytick.major.pad": 6.0,
    "path.simplify_threshold": 0.25,
}


def draw(
    paint: Callable[[Figure], None], size: tuple[int, int], name: str, title: str, description: str
) -> str:
    """An ``<svg>`` element for a page of HTML.

    Args:
        paint: draws into an empty figure.
        size: width and height in CSS pixels.
        name: prefix of every id in it; unique in the page.
        title: accessible name.
        description: what a reader sees in it, for one who does not.
    """
    buffer = io.StringIO()
    with style.context([_STYLE], after_reset=True), warnings.catch_warnings():
        # The reader's browser sets the text in its own fonts: ours need not know every letter.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = Figure(figsize=(size[0] / UNIT, size[1] / UNIT))
        paint(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(_METADATA))
    root = _html(ElementTree.fromstring(buffer.getvalue()), name)
    root.attrib = {
        "viewBox": f"0 0 {size[0]} {size[1]}",
        "width": str(size[0]),
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    }
    for tag, says in (("desc", description), ("title", title)):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = says
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def standalone(drawing: str) -> str:
    """What ``draw`` gave as a file of its own: it brings the page's colours, light or dark, and its paper."""
    root = ElementTree.fromstring(drawing)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    style = ElementTree.Element("style")
    style.text = COLOURS.read_text(encoding="utf-8") + _OF_A_PAGE
    root.insert(2, style)  # after its name and description, which are looked for first
    return ElementTree.tostring(root, encoding="unicode") + "\n"


# The page's colours, light and dark; the demo's page has them too.
COLOURS = Path(__file__).with_name("colours.css")
# The halo keeps names legible where they cross a line, as in report.css.
_OF_A_PAGE = """
svg { background: var(--paper); font-family: var(--sans); }
text { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
"""
_METADATA = ("Creator", "Date", "Format", "Type")


def _html(element: ElementTree.Element, name: str) -> ElementTree.Element:
    """The element as HTML has it: no namespaces, own ids, the page's colours and fonts."""
    element.tag = _local(element.tag)
    element.tail = None
    attributes = {_local(key): value for key, value in element.attrib.items()}
    element.attrib = {key: _restyle(key, value, name) for key, value in attributes.items()}
    for child in list(element):
        if _local(child.tag) in ("metadata", "style"):
            element.remove(child)
        else:
            _html(child, name)
    return element


def _local(qualified: str) -> str:
    return qualified.rpartition("}")[2]


def _restyle(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    value = value.replace("url(#", f"url(#{name}-")
    for sentinel, variable in VARIABLES.items():
        value = value.replace(sentinel, variable)
    # matplotlib writes the font in one piece or in two; the size stays, the family is the page's.
    value = re.sub(r"\bfont: (?:\w+ )?([\d.]+px) [^;]*", r"font-size: \1", value)
    return re.sub(r"font-family: [^;]*(; )?", "", value)
