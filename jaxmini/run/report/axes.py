"""Axes: what figures share: frames in pixels, logarithmic ticks, and names that keep apart."""

import math
import re
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from jaxmini.run.report.svg import MUTED

LETTER = 7.0  # about the width of one, in pixels
LABEL_GAP = 14.0
_FROM_DOT = 18.0


def framed(
    figure: Figure, size: tuple[int, int], *, left: float, right: float, bottom: float, top: float
) -> Axes:
    """Axes with margins in pixels: a figure's frame does not move with its figures."""
    width, height = size
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    return figure.add_axes(box)


def make_logarithmic(axis: Axis, values: Sequence[float], write: Callable[[float], str]) -> None:
    """Give an axis room around positive values, and a few ticks as ``write`` writes them."""
    low, high = min(values) / 1.6, max(values) * 1.6
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    axis.set_minor_locator(NullLocator())
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: rounded(write(value))))


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most ``most`` round numbers of the series 1, 2, 5 from ``low`` to ``high``."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for series in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in series]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def name_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    colours: Sequence[str],
) -> None:
    """Write a name beside each point, on the side with room for it, and a line from it to the point."""
    places = axes.transData.transform(points).tolist()
    # One list of heights for all: a name never covers another, whichever side of its point it is on.
    heights = spread([y for _, y in places], LABEL_GAP, axes.bbox.y0 + 8, axes.bbox.y1)
    rows = zip(points, places, heights, names, colours, strict=True)
    for point, (x, _), height, name, colour in rows:
        to_the_right = axes.bbox.x1 - x
        is_right = to_the_right > min(_FROM_DOT + LETTER * len(name), x - axes.bbox.x0)
        axes.annotate(
            name,
            point,
            (x + (_FROM_DOT if is_right else -_FROM_DOT), height),
            textcoords="figure pixels",
            ha="left" if is_right else "right",
            va="center",
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.75, "shrinkB": 4},
        )


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved apart to at least ``gap``, by the least sum of squares, within ``low..high``.

    Where there is no room for all, the gap gives way.
    """
    if not positions:
        return []
    last = len(positions) - 1
    gap = min(gap, (high - low) / max(last, 1))
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    # Less gap times rank, "at least a gap apart" reads "not falling".
    levels = _not_falling([positions[index] - gap * rank for rank, index in enumerate(order)])
    moved = [min(max(level, low), high - gap * last) for level in levels]
    placed = {index: moved[rank] + gap * rank for rank, index in enumerate(order)}
    return [placed[index] for index in range(len(positions))]


def _not_falling(values: Sequence[float]) -> list[float]:
    """The nearest sequence that does not fall (pool adjacent violators; Ayer et al., 1955)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = value, 1
        while pools and pools[-1][0] > mean:
            before, number = pools.pop()
            mean = (before * number + mean * size) / (number + size)
            size += number
        pools.append((mean, size))
    return [mean for mean, size in pools for _ in range(size)]


def rounded(text: str) -> str:
    """The text of a round number without the zeros after its point: ``50.0 kB`` as ``50 kB``."""
    return re.sub(r"(\.\d*?)0+(?!\d)", r"\1", text).replace(". ", " ").rstrip(".")


def shorten(name: str, most: int) -> str:
    """The name with its end cut off if it is longer."""
    return name if len(name) <= most else name[: most - 1] + "…"
