"""C++ sources: what their text says, read back by a reader of text; no compiler is needed."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.export import c_source
from jaxmini.export.arena import Arena
from jaxmini.export.c_source import Source, literal
from jaxmini.export.flatbuffer import Tensor
from jaxmini.export.micro_operators import adder


def tensor(shape: tuple[int, ...], scale: float, zero_point: int) -> Tensor:
    grid = np.float32([scale]), np.int64([zero_point])
    return Tensor("t", shape, np.dtype(np.int8), *grid, axis=0, data=None)


SOURCE = Source(
    name="int8_Net",
    content=bytes(range(30)),
    sha256="ab" * 32,
    image=tensor((1, 8, 8, 3), 1 / 3, -128),
    logits=tensor((1, 10), 1e-6, 127),
    encoding="pixel - 128",
    labels=("a", 'b"'),
    ops=("CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D"),
    arena=Arena(smallest=4096, total=3500, activations=2000, persistent=1500),
    machine="x86_64",
)


def constants(text: str) -> dict[str, str]:
    return dict(re.findall(r"constexpr [\w:]+ (k\w+) = (.+);", text))


def test_every_file_is_named_after_the_network_but_the_example():
    assert list(c_source.files(SOURCE)) == [
        "int8_Net.h",
        "int8_Net.cc",
        "int8_Net_ops.h",
        "main.cc",
    ]
    assert c_source.files(SOURCE) == c_source.files(dataclasses.replace(SOURCE))


def test_the_header_says_the_numbers_of_the_file():
    text = c_source.header(SOURCE)
    found = constants(text)
    assert found["kModelSize"] == "30"
    assert found["kArenaSize"] == "4096"
    assert (found["kInputSize"], found["kOutputSize"]) == ("192", "10")
    assert (found["kInputZeroPoint"], found["kOutputZeroPoint"]) == ("-128", "127")
    assert found["kLabelCount"] == "2"
    assert "// A pixel of 0..255 is stored as pixel - 128." in text
    assert SOURCE.sha256 in text
    assert "int8[1, 8, 8, 3] -> int8[1, 10]" in text
    assert "2000 of activations and 1500 that stay" in text


@given(st.floats(2**-126, 2**127, width=32))
def test_a_scale_is_a_float_literal_of_the_same_bits(scale: float):
    source = dataclasses.replace(SOURCE, image=tensor((1, 1), scale, 0))
    written = constants(c_source.header(source))["kInputScale"]
    assert re.fullmatch(r"\d[\d.]*(e[+-]?\d+)?f", written)
    assert "." in written or "e" in written  # `1f` is no literal of C++
    assert np.float32(written[:-1]) == np.float32(scale)


@given(st.binary(max_size=50))
def test_the_array_holds_every_byte_in_rows(content: bytes):
    text = c_source.array(dataclasses.replace(SOURCE, content=content))
    assert bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2}),", text)) == content
    assert max(map(len, text.splitlines())) <= 80
    assert "alignas(16) const unsigned char kModel[kModelSize]" in text


def test_operators_are_added_in_their_order_and_counted():
    text = c_source.operators(SOURCE)
    assert "MicroMutableOpResolver<3>" in text
    assert re.findall(r"resolver\.(\w+)\(\)", text) == [adder(op) for op in SOURCE.ops]


@pytest.mark.parametrize("make", [c_source.header, c_source.operators])
def test_a_header_is_guarded_by_a_name_of_its_own(make):
    lines = make(SOURCE).splitlines()
    (guard,) = [line.split()[1] for line in lines if line.startswith("#ifndef")]
    assert re.fullmatch("INT8_NET(_OPS)?_H_", guard)
    assert f"#define {guard}" in lines
    assert lines[-1] == f"#endif  // {guard}"
    assert lines.count("namespace int8_Net {") == lines.count("}  // namespace int8_Net") == 1


def test_without_labels_none_are_declared_nor_read():
    texts = c_source.files(dataclasses.replace(SOURCE, labels=(), encoding=""))
    assert not any("kLabel" in text for text in texts.values())
    assert '"the largest output"' in texts["main.cc"]
    assert "pixel" not in texts["int8_Net.h"]
    assert "int8_Net::kLabels[best]" in c_source.example(SOURCE)
    assert '    "a",\n    "b\\042",\n};' in c_source.array(SOURCE)


def test_the_example_braces_and_includes_are_those_of_its_files():
    text = c_source.example(SOURCE)
    assert text.count("{") == text.count("}")
    assert {"int8_Net.h", "int8_Net_ops.h"} <= set(re.findall(r'#include "([^"]+)"', text))
    used = set(re.findall(r"int8_Net::(k\w+)", text))
    declared = c_source.header(SOURCE)
    assert all(re.search(rf"\b{name}\b", declared) for name in used)


@given(st.text())
def test_a_literal_is_plain_and_says_what_the_text_says(text: str):
    text = text.encode("utf-8", "ignore").decode()
    said = literal(text)
    assert said.isascii()
    assert said.isprintable()
    assert '"' not in said[1:-1]
    assert "?" not in said
    pieces = re.findall(r"\\[0-7]{3}|[^\\]", said[1:-1])
    assert bytes(int(p[1:], 8) if p[0] == "\\" else ord(p) for p in pieces) == text.encode()
