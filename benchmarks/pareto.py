"""Pareto: what files cost in time and in bytes, and which no other beats in both, as a picture."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxmini.run.report import svg
from jaxmini.run.report.axes import LABEL_GAP, LETTER, framed, make_logarithmic
from jaxmini.run.report.quantity import milliseconds, short
from jaxmini.run.report.svg import ACCENT, INK, MUTED

PANEL, LEFT = (310, 400), 56  # CSS pixels
LEAST_WIDTH = 460  # of a picture: its legend must fit
FLOAT, INT8 = "float32", "int8"
# Float is hollow.
MARKS = {
    FLOAT: {"color": ACCENT, "marker": "o", "markersize": 7, "markerfacecolor": "none"},
    INT8: {"color": ACCENT, "marker": "o", "markersize": 8},
}
# Of names: how far beside their dots, and above or below them; a dot keeps its radius free.
GAP, STEPS, RADIUS = 6, tuple(range(12, 152, 14)), 5
LEADER = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.75, "shrinkB": 4}
FRONT = {"color": MUTED, "linewidth": 1.25, "dashes": (3, 3)}


class File(NamedTuple):
    """A file of a net, and what it costs: milliseconds a picture, and bytes."""

    net: str
    variant: str
    latency: float
    bytes: int

    def __str__(self) -> str:
        return f"{self.net} {self.variant}"


class Box(NamedTuple):
    """A rectangle of pixels; ``low`` is its lower edge."""

    left: float
    low: float
    right: float
    high: float

    def overlaps(self, other: "Box") -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.low < other.high and other.low < self.high

    def is_within(self, other: "Box") -> bool:
        across = other.left <= self.left and self.right <= other.right
        return across and other.low <= self.low and self.high <= other.high


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
    size = (max(LEFT + PANEL[0] * len(panels), LEAST_WIDTH), PANEL[1])
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
    _name(axes, files, {file.net: INK if file.net in on_front else MUTED for file in integer})


def _name(axes: Axes, files: Sequence[File], colours: Mapping[str, str]) -> None:
    """Write each net's name near its int8 file, with a line to it where that is further off."""
    pixels = axes.transData.transform([(file.latency, file.bytes) for file in files]).tolist()
    named = [(f.net, point) for f, point in zip(files, pixels, strict=True) if f.variant == INT8]
    for (net, point), box in zip(named, boxes(pixels, named, axes.bbox.extents), strict=True):
        is_right, height = box.left > point[0], (box.low + box.high) / 2
        axes.annotate(
            net,
            point,
            (box.left if is_right else box.right, height),
            xycoords="figure pixels",
            ha="left" if is_right else "right",
            va="center",
            color=colours[net],
            annotation_clip=False,
            arrowprops=LEADER if abs(height - point[1]) > STEPS[0] else None,
        )


def boxes(
    dots: Sequence[Sequence[float]],
    named: Sequence[tuple[str, Sequence[float]]],
    within: Sequence[float],
) -> list[Box]:
    """Where names are written: near their dots, and where it can be on no other dot or name.

    Args:
        dots: all that there are, in pixels.
        named: names and their dots.
        within: left, lowest, right and highest of the pixels there are.
    """
    taken = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in dots]
    placed = []
    for name, (x, y) in named:
        width, half = LETTER * len(name), LABEL_GAP / 2
        choices = [
            Box(left, y + step - half, left + width, y + step + half)
            for step in (sign * step for step in STEPS for sign in (-1, 1))
            for left in (x + GAP, x - GAP - width)
        ]
        inside = [box for box in choices if box.is_within(Box(*within))] or choices
        free = [box for box in inside if not any(map(box.overlaps, taken))]
        placed.append((free or inside)[0])
        taken.append(placed[-1])
    return placed


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
