"""Sources for TFLite-Micro: the compiler's bytes are the file's; what does not run there is not written."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini.compress.quantize import int8, integer_norm
from jaxmini.export import (
    Artifact,
    Exported,
    Layout,
    Micro,
    MicroError,
    flatbuffer,
    metadata,
    micro,
    tflite,
)
from jaxmini.export.micro import unfit
from jaxmini.export.micro_operators import adder
from tests.evaluate.conftest import without_metadata
from tests.export.c_compiler import COMPILER, built, stand_in
from tests.export.conftest import LABELS, make, quantized
from tests.export.single import single
from tests.export.tampering import edited, find, set_code

pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")

compiled = pytest.mark.skipif(COMPILER is None, reason="needs g++ or clang++")
NASTY = ('"quoted"', "back\\slash", "Grüße, 世界", "??=", "a\n1", "", "7\x0100", "%s", "*/ //")

DUMP = """
#include <cstdio>
#include "net.h"
int main() {
  if (reinterpret_cast<std::uintptr_t>(net::kModel) % 16 != 0) return 1;
  std::fwrite(net::kModel, 1, net::kModelSize, stdout);
  std::printf("%zu %zu %zu %a %d %a %d\\n", net::kArenaSize, net::kInputSize, net::kOutputSize,
              static_cast<double>(net::kInputScale), static_cast<int>(net::kInputZeroPoint),
              static_cast<double>(net::kOutputScale), static_cast<int>(net::kOutputZeroPoint));
  for (std::size_t i = 0; i < net::kLabelCount; ++i) {
    std::fwrite(net::kLabels[i], 1, __builtin_strlen(net::kLabels[i]) + 1, stdout);
  }
}
"""


@pytest.fixture(scope="module")
def net(convert: Callable[..., Exported], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.tflite"
    path.write_bytes(convert("int8", "litert").path.read_bytes())
    return path


@pytest.fixture(scope="module")
def written(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Micro:
    return micro(net, tmp_path_factory.mktemp("sources") / "new" / "folder")


def test_what_is_written_is_told(written: Micro, net: Path):
    assert [path.name for path in written.files] == ["net.h", "net.cc", "net_ops.h", "main.cc"]
    (folder,) = {path.parent for path in written.files}
    assert sorted(folder.iterdir()) == sorted(written.files)
    assert (written.name, written.bytes) == ("net", net.stat().st_size)
    assert set(written.ops) >= {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED"}
    header, _, operators, _ = (path.read_text() for path in written.files)
    assert f"kArenaSize = {written.arena.smallest};" in header
    assert written.sha256 in header
    assert "A pixel of 0..255 is stored as pixel - 128." in header
    assert f"MicroMutableOpResolver<{len(written.ops)}>" in operators
    assert re.findall(r"resolver\.(\w+)\(\)", operators) == [adder(op) for op in written.ops]


@compiled
def test_the_compilers_bytes_and_numbers_are_the_files(integer_artifact: Artifact, tmp_path: Path):
    artifact = dataclasses.replace(integer_artifact, labels=(*NASTY, "j"))
    path = tflite(artifact, tmp_path / "net.tflite", variant="int8", backend="litert").path
    written = micro(path, tmp_path)
    (tmp_path / "dump.cc").write_text(DUMP)
    said = built(tmp_path, "dump.cc", "net.cc")
    content = path.read_bytes()
    assert said[: len(content)] == content
    numbers, _, labels = said[len(content) :].partition(b"\n")
    file = flatbuffer.read(path)
    ends = [file.tensors[file.inputs[0]], file.tensors[file.outputs[0]]]
    sizes, grids = numbers.decode().split()[:3], numbers.decode().split()[3:]
    assert [int(size) for size in sizes] == [written.arena.smallest, 192, 10]
    for end, scale, zero_point in zip(ends, grids[::2], grids[1::2], strict=True):
        assert float.fromhex(scale) == float(end.scale[0])
        assert int(zero_point) == int(end.zero_point[0])
    assert labels.split(b"\0")[:-1] == [label.encode() for label in artifact.labels]


@compiled
def test_the_example_and_the_operators_compile_and_run(written: Micro, tmp_path: Path):
    for path in written.files:
        shutil.copy(path, tmp_path)
    stand_in(tmp_path, tuple(adder(op) for op in written.ops))
    said = built(tmp_path, "main.cc", "net.cc")
    assert said.startswith(b"0: a, stored as ")


def test_the_same_network_gives_the_same_text(written: Micro, net: Path, tmp_path: Path):
    again = micro(net, tmp_path)
    for one, other in zip(written.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert str(tmp_path) not in one.read_text()


def test_an_artifact_is_converted_first(integer_artifact: Artifact, written: Micro, tmp_path: Path):
    ours = micro(integer_artifact, tmp_path, backend="litert")
    assert dataclasses.replace(ours, name="net", files=written.files) == written
    assert ours.name == "model"


@compiled
def test_a_file_of_another_converter_has_no_labels(net: Path, tmp_path: Path):
    written = micro(without_metadata(net.read_bytes()), tmp_path)
    stand_in(tmp_path, tuple(adder(op) for op in written.ops))
    assert built(tmp_path, "main.cc", "model.cc").startswith(b"0: the largest output, stored as ")
    assert "kLabel" not in written.files[0].read_text()
    assert "pixel" not in written.files[0].read_text()


def test_what_does_not_run_there_is_not_written(
    net: Path, convert: Callable[..., Exported], tmp_path: Path
):
    def gelu(model, graph) -> None:
        set_code(model, find(model, "ADD"), 150)

    refused = {
        "GELU is not an operator of TFLite-Micro: use relu": edited(net.read_bytes(), gelu),
        "CONV_2D computes in floats: train": convert("float32", "litert").path,
        "DEQUANTIZE reads float16 weights": convert("float16", "litert").path,
        "Node LOGISTIC .* failed to prepare": single("LOGISTIC"),
    }
    for message, source in refused.items():
        with pytest.raises(MicroError, match=message):
            micro(source, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


class Normed(nn.Module):
    """A LayerNorm between two layers: a float island."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm()(nn.Conv(8, (4, 4), 4)(x))
        return nn.Dense(len(LABELS))(x.mean((1, 2)))


def test_float_islands_are_not_those_of_a_microcontroller(images: np.ndarray, tmp_path: Path):
    source = tflite(
        make(quantized(Normed()), images), tmp_path / "x.tflite", variant="int8", backend="litert"
    ).path
    reasons = unfit(flatbuffer.read(source))
    assert any(why.startswith("RSQRT computes in floats: use BatchNorm") for why in reasons)
    with pytest.raises(MicroError) as error:
        micro(source, tmp_path / "nothing")
    assert error.value.reasons == reasons


def test_a_norm_in_integers_is_written(images: np.ndarray, tmp_path: Path):
    scheme = int8(rules=(integer_norm(),))
    written = micro(make(quantized(Normed(), scheme), images), tmp_path, backend="litert")
    assert {"MEAN", "RSQRT", "SUB"} <= set(written.ops)


def test_inputs_of_other_integers_are_refused(tmp_path: Path):
    def no_grid(model, graph) -> None:
        graph.tensors[0].quantization = None

    with pytest.raises(ValueError, match=r"its input is int8\[1, 2, 2, 4\], expected int8 on a"):
        micro(edited(single("ABS"), no_grid), tmp_path)


def test_a_float_artifact_and_a_file_of_something_else_are_refused(
    float_artifact: Artifact, tmp_path: Path
):
    with pytest.raises(ValueError, match="needs a quantized model"):
        micro(float_artifact, tmp_path, backend="litert")
    with pytest.raises(ValueError, match="not a .tflite file"):
        micro(b"GIF89a and nothing more", tmp_path)
    with pytest.raises(FileNotFoundError):
        micro(tmp_path / "missing.tflite", tmp_path)


def test_other_ends_than_int8_are_not_those_of_a_microcontroller(
    integer_artifact: Artifact, tmp_path: Path
):
    for ends, what in (({"input": "float32"}, "input"), ({"output": "float32"}, "output")):
        path = tmp_path / "net.tflite"
        tflite(integer_artifact, path, variant="int8", backend="litert", layout=Layout(**ends))
        with pytest.raises(ValueError, match=rf"its {what} is float32\[.*in its layout"):
            micro(path, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_the_name_is_made_of_the_file_s(net: Path, tmp_path: Path):
    stems = {"int8-small.v2": "int8_small_v2", "9lives": "model_9lives", "float": "model_float"}
    for stem, name in stems.items():
        path = tmp_path / f"{stem}.tflite"
        path.write_bytes(net.read_bytes())
        assert micro(path, tmp_path).name == name


@pytest.mark.parametrize("name", ["", "a-b", "9a", "_a", "float", "string", "größe", "a b", "a\n"])
def test_a_name_that_is_no_name_is_refused(name: str, net: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(f"the name {name!r} cannot be that of")):
        micro(net, tmp_path / "nothing", name=name)
    assert not (tmp_path / "nothing").exists()


def test_labels_are_in_the_order_of_the_outputs(written: Micro):
    text = written.files[1].read_text()
    assert re.findall(r'^    "(\w)",$', text, re.MULTILINE) == list(LABELS)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"input": 3}, "its metadata is damaged"),
        ({"labels": 3}, "its metadata is damaged"),
        ({"input": {"encoding": "pixel"}}, "its int8 input takes 'pixel'; damaged"),
        ({"labels": ["a", "b"]}, r"names 2 classes, and its output is \[1, 10\]; damaged"),
    ],
)
def test_a_damaged_description_is_refused(described: dict, message: str, net: Path, tmp_path: Path):
    path = tmp_path / "odd.tflite"
    path.write_bytes(metadata.write(net.read_bytes(), described))
    with pytest.raises(ValueError, match=rf"odd\.tflite: .*{message}"):
        micro(path, tmp_path / "sources")
    assert not (tmp_path / "sources").exists()


def test_a_description_that_is_no_json_is_refused_by_the_file_s_name(net: Path, tmp_path: Path):
    path = tmp_path / "odd.tflite"
    path.write_bytes(net.read_bytes().replace(b'{"backend"', b'["backend"'))
    with pytest.raises(ValueError, match=r"odd\.tflite: its 'jaxmini' metadata is damaged"):
        micro(path, tmp_path)
