"""Pareto: what files cost in time and in bytes, and which no other beats in both, as a picture."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxmini.run.report import svg
from jaxmini.run.report.axes import framed, make_logarithmic, name_points
from jaxmini.run.report.quantity import milliseconds, short
from jaxmini.run.report.svg import ACCENT, INK, MUTED

PANEL, LEFT = (310, 400), 56  # CSS pixels
FLOAT, INT8 = "float32", "int8"
# Float is hollow.
MARKS = {
    FLOAT: {"color": ACCENT, "marker": "o", "markersize": 7, "markerfacecolor": "none"},
    INT8: {"color": ACCENT, "marker": "o", "markersize": 8},
}
FRONT = {"color": MUTED, "linewidth": 1.25, "dashes": (3, 3)}


class File(NamedTuple):
    """A file of a net, and what it costs: milliseconds a picture, and bytes."""

    net: str
    variant: str
    latency: float
    bytes: int

    def __str__(self) -> str:
        return f"{self.net} {self.variant}"


def front(files: Iterable[File]) -> tuple[File, ...]:
    """The files of which every other is slower or larger, the fastest first."""
    kept: list[File] = []
    for file in sorted(files, key=lambda file: (file.latency, file.bytes)):
        if not kept or file.bytes < kept[-1].bytes:
            kept.append(file)
    return tuple(kept)


def says(what: str, files: Sequence[File]) -> str:
    """The front in a sentence."""
    best = [f"{f} ({milliseconds(f.latency)}, {short(f.bytes, 'B')})" for f in front(files)]
    return (
        f"{what}: {len(best)} of {len(files)} files are on the front, where none is both smaller and "
        f"faster: {', '.join(best)}."
    )


def draw(panels: Mapping[str, Sequence[File]]) -> str:
    """An SVG file with a panel for each kind of input: latency and bytes of each net in float32 and int8.

    Args:
        panels: name -> files, both variants of each net.
    """
    size = (LEFT + PANEL[0] * len(panels), PANEL[1])
    every = [file.bytes for files in panels.values() for file in files]

    def paint(figure: Figure) -> None:
        for index, (name, files) in enumerate(panels.items()):
            left = LEFT + PANEL[0] * index
            right = size[0] - left - PANEL[0] + 24
            axes = framed(figure, size, left=left, right=right, bottom=46, top=64)
            _paint_panel(axes, name, files, every, is_first=not index)
        _paint_legend(figure)

    told = " ".join(says(name, files) for name, files in panels.items())
    return svg.standalone(svg.draw(paint, size, "pareto", "Bytes against latency", told))


def _paint_panel(
    axes: Axes, name: str, files: Sequence[File], every: Sequence[int], *, is_first: bool
) -> None:
    make_logarithmic(axes.xaxis, [file.latency for file in files], milliseconds)
    make_logarithmic(axes.yaxis, every, lambda value: short(value, "B"))
    axes.grid(visible=True, axis="both")
    axes.set_xlabel("latency of one picture")
    axes.set_title(name, loc="left", fontsize=svg.FONT_SIZE, color=INK)
    axes.tick_params(axis="y", labelleft=is_first)
    best = front(files)
    _paint_front(axes, best)
    nets = list(dict.fromkeys(file.net for file in files))
    for net in nets:
        own = [file for file in files if file.net == net]
        axes.plot([f.latency for f in own], [f.bytes for f in own], color=ACCENT, alpha=0.5)
        for file in own:
            axes.plot([file.latency], [file.bytes], clip_on=False, zorder=5, **MARKS[file.variant])
    integer = [file for file in files if file.variant == INT8]
    on_front = {file.net for file in best}
    name_points(
        axes,
        [(file.latency, file.bytes) for file in integer],
        [file.net for file in integer],
        [INK if file.net in on_front else MUTED for file in integer],
        below=10,  # the front runs beside a point, the line of its net above it
    )


def _paint_front(axes: Axes, best: Sequence[File]) -> None:
    """The edge of what there is: above and to the right of it, some file is better in both."""
    (_, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    x = [best[0].latency, *(file.latency for file in best), right]
    y = [top, *(file.bytes for file in best), best[-1].bytes]
    axes.plot(x, y, drawstyle="steps-post", zorder=2, **FRONT)


def _paint_legend(figure: Figure) -> None:
    handles = [Line2D([], [], linestyle="none", label=name, **mark) for name, mark in MARKS.items()]
    handles.append(Line2D([], [], label="front: none is both smaller and faster", **FRONT))
    figure.legend(
        handles=handles, loc="upper left", ncols=3, frameon=False, borderaxespad=0.4, borderpad=0.4
    )
