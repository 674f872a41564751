"""The layers of a file: drawn in order, the worst told first, many of them still apart."""

import dataclasses
import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from jaxmini.run.report import layers
from jaxmini.run.report.content import FileResult, Layer, Report

FILE = FileResult("a.tflite", "int8", "litert", 10, layers_note="on 2 test pictures")


def with_layers(*given: Layer) -> FileResult:
    return dataclasses.replace(FILE, layers=given)


@pytest.fixture(scope="module")
def file(sample: Report) -> FileResult:
    return sample.file("int8-jax2tf.tflite")


def texts(drawing: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(drawing).iter("text"))


def test_a_file_without_layers_has_no_figure_and_no_sentence() -> None:
    assert layers.drawing(FILE, "a") is None
    assert layers.sentence(FILE) == ""


def test_every_layer_has_a_row_in_the_order_of_the_program(file: FileResult) -> None:
    names = layers.short_names([layer.name for layer in file.layers])
    written = [text.text for text in texts(layers.drawing(file, "a"))]
    assert [text for text in written if text in names] == names


def test_the_worst_layers_are_in_ink(file: FileResult) -> None:
    inked = {t.text for t in texts(layers.drawing(file, "a")) if "--ink" in t.get("style")}
    assert inked == {"block3/project:conv", "head/dense", "stem:conv"}


def test_the_sentence_names_the_worst_and_the_last(file: FileResult) -> None:
    assert layers.sentence(file) == (
        "Rounded alone, block3/project:conv (21.2 dB) loses most, then head/dense "
        "(24.9 dB) and stem:conv (27.6 dB); all rounded, the last layer has 17.4 dB."
    )


def test_the_table_has_the_worst_first(file: FileResult) -> None:
    rows = layers.table(file).rows
    assert len(rows) == layers.LISTED
    assert rows[0] == (
        "Net/block3/project:conv", "CONV_2D", "21.2 dB", "19.1 dB", "0.021% by up to 2",
    )  # fmt: skip
    assert [row[0] for row in rows][1] == "Net/head/dense:dense"


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (Layer("a"), "–"),
        (Layer("a", differing=0.0, largest=0), "0"),
        (Layer("a", differing=0.0031, largest=1), "0.31% by 1"),
        (Layer("a", differing=0.5, largest=7), "50% by up to 7"),
    ],
)
def test_differences_from_the_simulation(layer: Layer, says: str) -> None:
    assert layers.difference(layer) == says


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (("Net/a:conv", "Net:add", "Net/b/c:conv"), ["a:conv", "add", "b/c:conv"]),
        (("body/a:conv", "head:dense"), ["body/a:conv", "head:dense"]),
        (("Net/a/conv:conv", "Net/b/my_conv:conv"), ["a/conv", "b/my_conv:conv"]),
        (("Net/" + "x" * 30 + "y" * 20 + ":conv",), ["x" * 22 + "…" + "y" * 16 + ":conv"]),
        (("plain",), ["plain"]),
        ((), []),
    ],
)
def test_names_lose_what_all_share_and_long_ones_their_middle(names: tuple, short: list) -> None:
    assert layers.short_names(names) == short


@pytest.mark.parametrize(
    "given",
    [
        (Layer("only"),),
        (Layer("only", "CONV_2D", math.inf, math.inf),),
        (Layer("a", "ADD", 20.0, 20.0), Layer("b", "ADD", 20.0, 20.0)),
        (Layer("a", "ADD", -3.0, math.inf), Layer("b", None, None, 40.0)),
    ],
)
def test_odd_layers_are_drawn_without_a_warning(given: tuple[Layer, ...]) -> None:
    drawing = layers.drawing(with_layers(*given), "a")
    assert ElementTree.fromstring(drawing).tag == "svg"
    assert "nan" not in re.sub(r"<text.*?</text>", "", drawing)


def test_rows_of_many_layers_do_not_touch() -> None:
    many = [Layer(f"Net/layer_{i}:conv", "CONV_2D", 40 - i / 4, 45.0, 0.0, 0) for i in range(120)]
    drawing = layers.drawing(with_layers(*many), "a")
    heights = {}
    for text in texts(drawing):
        place = re.search(r"translate\([\d.-]+ ([\d.-]+)\)", text.get("transform", ""))
        y = float(place.group(1)) if place else float(text.get("y"))
        if text.text.startswith("layer_"):
            heights[text.text] = y
    ordered = [heights[f"layer_{i}:conv"] for i in range(120)]
    gaps = [after - before for before, after in itertools.pairwise(ordered)]
    assert min(gaps) == pytest.approx(layers.ROW, abs=0.1)


def test_names_are_text_and_nothing_else() -> None:
    given = with_layers(*(Layer(n, n, 1.0, 2.0) for n in ("$\\frac{", "<script>", '"&amp;', "_")))
    drawing = layers.drawing(given, "a")
    assert "<script" not in drawing
    assert {"$\\frac{", "<script>", '"&amp;', "_"} <= {text.text for text in texts(drawing)}
