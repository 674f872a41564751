"""Page: a report as one HTML document that carries style, figures and pictures inside itself."""

import base64
import json
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from jaxmini.run.report import codec, figures, layers, provenance, quantity, summary, table
from jaxmini.run.report.content import Mistake, Report, StageResult
from jaxmini.run.report.pictures import SIGNATURE

_ROOM = Path(__file__).parent


def html(report: Report) -> str:
    """The page. It has no script, asks nothing of a network, and escapes every name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ROOM),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"visible": table.visible, "data_uri": data_uri, "unbroken": unbroken}
    return environment.get_template("report.html").render(
        report=report,
        css=Markup("\n".join(_read(name) for name in ("colours.css", "report.css"))),
        quantity=quantity,
        summary=summary,
        key_figures=key_figures(report),
        curves=[_curves(report, index, stage) for index, stage in enumerate(report.stages)],
        costs=_drawn(
            figures.accuracy_against_size(report, "cost-size"),
            figures.accuracy_against_latency(report, "cost-latency"),
        ),
        confusion=_drawn(figures.confusion(report, "confusion")),
        layers=[_drawn(layers.drawing(f, f"layers-{i}")) for i, f in enumerate(report.files)],
        sentence=layers.sentence,
        nodes=provenance.layout(report.provenance),
        provenance=provenance,
        recipe=json.dumps(codec.encode(report.recipe, "recipe"), indent=2, ensure_ascii=False),
    )


def key_figures(report: Report) -> tuple[tuple[str, str], ...]:
    """The figures a reader looks for first: (what, figure), only those that were measured."""
    file = summary.headline(report)
    if file is None:
        return ()
    network = report.stage(file.made_from)
    baseline = report.stage(network.against) if network is not None else None
    figures_of_file = (
        ("accuracy", quantity.percent(file.accuracy)),
        ("size", quantity.short(file.bytes, "B")),
        ("latency of one picture", quantity.milliseconds(file.latency_ms)),
        (
            f"points over {baseline.name if baseline else quantity.MISSING}",
            quantity.points(summary.gain(file.accuracy, baseline)),
        ),
        ("same answer as its network", quantity.percent(file.agreement)),
    )
    return tuple((what, says) for what, says in figures_of_file if says != quantity.MISSING)


def unbroken(sentence: str) -> str:
    """The sentence with its numbers held to their units."""
    return re.sub(
        r"(?<=\d) (?=(?:[kMGT]?B|dB|ms|s|min|h|points)\b)", "\N{NO-BREAK SPACE}", sentence
    )


def data_uri(mistake: Mistake) -> str:
    """The picture as a ``data:`` address.

    Raises:
        ValueError: its bytes are not a PNG file.
    """
    if not mistake.png.startswith(SIGNATURE):
        raise ValueError(
            f"the picture of mistake {mistake.index} is not a PNG file; make it with pictures.png"
        )
    return "data:image/png;base64," + base64.b64encode(mistake.png).decode("ascii")


def _read(name: str) -> str:
    return (_ROOM / name).read_text(encoding="utf-8")


def _curves(report: Report, index: int, stage: StageResult) -> list[tuple[str, Markup]]:
    return [
        (
            curve.metric,
            Markup(figures.learning_curve(report, stage, curve, f"curve-{index}-{number}")),
        )
        for number, curve in enumerate(stage.curves)
        if curve.values
    ]


def _drawn(*drawings: str | None) -> list[Markup]:
    return [Markup(drawing) for drawing in drawings if drawing is not None]
