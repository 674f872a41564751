"""Layers: what rounding costs in each layer of an int8 file, as a figure, a table and a sentence."""

import math
import re
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxmini.run.report import quantity, svg
from jaxmini.run.report.axes import LETTER, framed
from jaxmini.run.report.content import FileResult, Layer
from jaxmini.run.report.svg import ACCENT, INK, MUTED
from jaxmini.run.report.table import Column, Table

WIDTH, ROW = 720, 16  # CSS pixels; a layer is a row
LONGEST_NAME = 44
NAMED = 3  # the worst layers, which a reader should see first
LISTED = 8


def drawing(file: FileResult, name: str) -> str | None:
    """Every layer of a file: its noise as it is in the file, and rounded alone."""
    if not file.layers:
        return None
    worst = _worst(file.layers)[:NAMED]
    names = short_names([layer.name for layer in file.layers])
    size = (WIDTH, ROW * len(names) + 84)

    def paint(figure: Figure) -> None:
        room = 16 + LETTER * max(map(len, names))
        axes = framed(figure, size, left=room, right=104, bottom=46, top=38)
        axes.set_ylim(len(names) - 0.5, -0.5)
        _set_decibels(axes, file.layers)
        _name_rows(axes, names, [INK if layer in worst else MUTED for layer in file.layers])
        _paint_ratios(axes, [layer.alone for layer in file.layers], is_alone=True)
        _paint_ratios(axes, [layer.sqnr for layer in file.layers], is_alone=False)
        _paint_differences(axes, file.layers)

    return svg.draw(paint, size, name, f"Layers of {file.name}", sentence(file))


def sentence(file: FileResult) -> str:
    """Which layers lose most, and what is left at the end; empty without layers."""
    short = short_names([layer.name for layer in file.layers])
    names = {layer.name: name for layer, name in zip(file.layers, short, strict=True)}
    worst = [f"{names[one.name]} ({quantity.decibels(one.alone)})" for one in _worst(file.layers)]
    if not worst:
        return ""
    first, *others = worst[:NAMED]
    then = f", then {' and '.join(others)}" if others else ""
    last = quantity.decibels(file.layers[-1].sqnr)
    return f"Rounded alone, {first} loses most{then}; all rounded, the last layer has {last}."


def table(file: FileResult) -> Table:
    """The layers that lose most, the worst first."""
    columns = (
        Column("layer"),
        Column("operator"),
        Column("SQNR rounded alone", is_quantity=True),
        Column("SQNR in the file", is_quantity=True),
        Column("not as simulated", is_quantity=True),
    )
    rows = (
        (
            layer.name,
            layer.operator or quantity.MISSING,
            quantity.decibels(layer.alone),
            quantity.decibels(layer.sqnr),
            difference(layer),
        )
        for layer in _worst(file.layers)[:LISTED]
    )
    return Table(columns, (tuple(rows),))


def difference(layer: Layer) -> str:
    """How many of a layer's numbers are not those of its simulation, and by how many steps."""
    if layer.differing is None:
        return quantity.MISSING
    if not layer.differing:
        return "0"
    digits = quantity.significant(100 * layer.differing, 2)
    return f"{digits}% by {'up to ' * (layer.largest > 1)}{layer.largest}"


def short_names(names: Sequence[str]) -> list[str]:
    """The names without the module all are in, and without what they say twice (``conv:conv``)."""
    parts = [re.split(r"[/:]", name, maxsplit=1) for name in names]
    if len({root for root, *_ in parts}) == 1:
        names = [rest[-1] for rest in parts]
    return [_cut(re.sub(r"\b(\w+):\1$", r"\1", name)) for name in names]


def _cut(name: str) -> str:
    """The name without its middle if it is long: modules differ at its begin, their parts at its end."""
    if len(name) <= LONGEST_NAME:
        return name
    half = LONGEST_NAME // 2
    return f"{name[:half]}…{name[1 - half :]}"


def _worst(layers: Iterable[Layer]) -> list[Layer]:
    """The layers by what rounding them alone costs, the worst first; without those that cost nothing."""
    costly = [layer for layer in layers if layer.alone is not None and math.isfinite(layer.alone)]
    return sorted(costly, key=lambda layer: layer.alone)


def _set_decibels(axes: Axes, layers: Iterable[Layer]) -> None:
    ratios = [ratio for layer in layers for ratio in (layer.sqnr, layer.alone)]
    finite = [ratio for ratio in ratios if ratio is not None and math.isfinite(ratio)] or [0.0]
    room = max(0.04 * (max(finite) - min(finite)), 1.0)
    axes.set_xlim(min(finite) - room, max(finite) + room)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.tick_params(axis="x", top=True, labeltop=True)
    axes.set_xlabel("signal to rounding noise, dB")


def _name_rows(axes: Axes, names: Sequence[str], colours: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for label, colour in zip(axes.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")


def _paint_ratios(axes: Axes, ratios: Sequence[float | None], *, is_alone: bool) -> None:
    """A mark a layer; one without any noise is an arrow at the edge."""
    ink = MUTED if is_alone else ACCENT
    style = {"color": ink, "markerfacecolor": "none" if is_alone else ink, "clip_on": False}
    edge = axes.get_xlim()[1]
    known = [(ratio, row) for row, ratio in enumerate(ratios) if ratio is not None]
    exact = [(edge, row) for ratio, row in known if ratio == math.inf]
    finite = [(ratio, row) for ratio, row in known if math.isfinite(ratio)]
    for points, marker in ((finite, "o"), (exact, ">")):
        if points:
            axes.plot(*zip(*points, strict=True), marker, markersize=6, zorder=4, **style)
    if finite and not is_alone:
        axes.plot(*zip(*finite, strict=True), color=ink, linewidth=1.0, alpha=0.5, zorder=3)


def _paint_differences(axes: Axes, layers: Sequence[Layer]) -> None:
    """A column of text beside the rows."""
    texts = {-1.3: "not as simulated"} | dict(enumerate(map(difference, layers)))
    right = axes.figure.bbox.x1 - 2
    for row, text in texts.items():
        place = (right, axes.transData.transform((0, row))[1])
        axes.annotate(text, place, xycoords="figure pixels", ha="right", va="center", color=MUTED)
