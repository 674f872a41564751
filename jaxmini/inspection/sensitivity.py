"""Sensitivity: a drawing of what rounding each kernel and each activation alone costs."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmini.compress.quantize.sensitivity import Sensitivity

SUFFIXES = (".svg", ".png")
SMALLEST = 1e-9  # a cost below it, 0 among them, has no place on a logarithmic axis
ROW = 0.26  # inches
ACTIVATION = "0.55"


def draw_sensitivity(sensitivity: Sensitivity, path: Path | str) -> Path:
    """Write a picture: a row a layer, a dot a number of bits, a cross its activation.

    Args:
        sensitivity: to draw.
        path: of the picture, .svg or .png; a file there is replaced.

    Raises:
        ValueError: the suffix is another.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"draw_sensitivity: {path.name} ends in {path.suffix!r}, expected .svg or .png"
        )
    kernels = [one.name for one in sensitivity.kernels]
    names = kernels + [site for site in sensitivity.activations if site not in kernels]
    # Names are text in an SVG: they can be searched. No date: the same costs are the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxmini"}):
        figure = Figure(figsize=(8, 1.2 + ROW * len(names)), layout="constrained")
        axes = figure.add_subplot()
        _paint_rows(axes, names)
        _paint_costs(axes, sensitivity, {name: row for row, name in enumerate(names)})
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
    return path


def _paint_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names, parse_math=False, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _paint_costs(axes: Axes, sensitivity: Sensitivity, rows: dict[str, int]) -> None:
    bits, colours = sensitivity.bits, matplotlib.colormaps["viridis"]
    for index, count in enumerate(bits):
        costs = [max(one.costs[count], SMALLEST) for one in sensitivity.kernels]
        colour = colours(1 - (index + 1) / (len(bits) + 0.5))
        places = [rows[one.name] for one in sensitivity.kernels]
        axes.plot(costs, places, "o", color=colour, markersize=5, label=f"{count} bits")
    costs = [max(cost, SMALLEST) for cost in sensitivity.activations.values()]
    places = [rows[site] for site in sensitivity.activations]
    axes.plot(costs, places, "x", color=ACTIVATION, markersize=5, label="activation")
    least = f"; {SMALLEST:g} stands for less" if SMALLEST in axes.dataLim.intervalx else ""
    axes.set_xlabel(f"{sensitivity.measure} of rounding it alone{least}", parse_math=False)
    axes.figure.legend(loc="outside upper center", ncols=len(bits) + 1, frameon=False, fontsize=8)
