"""A sensitivity is drawn with a row for everything that is rounded."""

import pytest

from jaxmini.compress.quantize import KernelSensitivity, Sensitivity, per_channel
from jaxmini.inspection.sensitivity import draw_sensitivity

KERNELS = (
    KernelSensitivity("Net/stem:conv", 216, 8, {4: 1e-2, 8: 0.0}),
    KernelSensitivity("Net/$x_1$:dense", 40, 5, {4: 2e-3, 8: 1e-6}),
)
TABLE = Sensitivity(
    KERNELS, {"input": 1e-5, "Net/stem:conv": 2e-5, "Net:add": 0.0}, per_channel(), "kl", 100
)


def test_an_svg_names_all(tmp_path):
    path = draw_sensitivity(TABLE, tmp_path / "s.svg")
    text = path.read_text()
    for words in ("Net/stem:conv", "Net/$x_1$:dense", "input", "Net:add", "4 bits", "8 bits"):
        assert f">{words}<" in text
    assert "kl of rounding it alone; 1e-09 stands for less" in text
    first = path.read_bytes()
    assert draw_sensitivity(TABLE, str(path)).read_bytes() == first


def test_a_png_is_one(tmp_path):
    assert draw_sensitivity(TABLE, tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_stands_for_less_where_all_is_more(tmp_path):
    table = Sensitivity(KERNELS[1:], {}, per_channel(), "noise_to_signal", 100)
    text = draw_sensitivity(table, tmp_path / "s.svg").read_text()
    assert "noise_to_signal of rounding it alone<" in text


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"s.jpg ends in '.jpg', expected .svg or .png"):
        draw_sensitivity(TABLE, tmp_path / "s.jpg")
