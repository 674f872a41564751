"""The commands ``benchmark``, ``parity`` and ``micro``: what they print, and how they end."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmini import recipe
from jaxmini.__main__ import main
from jaxmini.export import Artifact, save, tflite
from tests.evaluate.conftest import Plain, without_metadata
from tests.export.conftest import SHAPE, make, quantized
from tests.export.tampering import change, edited, find, set_code


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "that of these tests")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    pictures = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    return make(quantized(Plain()), pictures)


@pytest.fixture(scope="module")
def content(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("files") / "net.tflite"
    return tflite(artifact, path, variant="int8", backend="litert").path.read_bytes()


def failed(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_benchmark_prints_the_figures_of_any_file(content: bytes, capsys: pytest.CaptureFixture):
    Path("net.tflite").write_bytes(without_metadata(content))
    arguments = ["--threads", "2", "--runs", "5", "--kernels", "reference"]
    assert main(["benchmark", "net.tflite", *arguments]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["parameters", "1,382"] in said
    assert ["multiply-accumulates", "36,472"] in said
    assert ["FULLY_CONNECTED", "1", "120"] in said
    assert ["time", "of", "one", "run,", "reference"] in [line[:5] for line in said]
    for threads in (["1", "thread"], ["2", "threads"]):
        (timed,) = [line for line in said if line[:2] == threads]
        assert timed[-1] == "5"


def test_benchmark_refuses_in_one_message(content: bytes, capsys: pytest.CaptureFixture):
    Path("net.tflite").write_bytes(content)
    assert "it must be at least 1" in failed(capsys, "benchmark", "net.tflite", "--threads", "0")
    assert "threads is 1000000; it must be at most 1024" in failed(
        capsys, "benchmark", "net.tflite", "--threads", "1000000"
    )
    assert "runs is 0" in failed(capsys, "benchmark", "net.tflite", "--runs", "0")
    assert failed(capsys, "benchmark", "nett.tflite") == (
        "jaxmini: no file nett.tflite; did you mean 'net.tflite'?\n"
    )
    Path("noise.tflite").write_bytes(np.random.default_rng(0).bytes(200))
    assert "noise.tflite: not a .tflite file" in failed(capsys, "benchmark", "noise.tflite")
    with pytest.raises(SystemExit):
        main(["benchmark", "net.tflite", "--kernels", "xnpack"])


def test_parity_of_a_faithful_file(
    artifact: Artifact, content: bytes, capsys: pytest.CaptureFixture
):
    save(artifact, "artifact")
    Path("net.tflite").write_bytes(content)
    assert main(["parity", "artifact", "net.tflite", "--images", "10"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("net.tflite on 10 pictures: random pictures (no test split: ")
    assert "stored numbers: all as trained (7 groups" in said
    (xnnpack,) = [line.split() for line in said.splitlines() if line.startswith("xnnpack")]
    assert xnnpack == ["xnnpack", "100.00%", "–", "0", "LSB", "100", *"–––––"]
    assert "no operator deviates" in said


def test_parity_of_a_changed_file_is_3_and_says_where(
    artifact: Artifact, content: bytes, capsys: pytest.CaptureFixture
):
    def tamper(model: Any, graph: Any) -> None:
        change(model, graph.tensors[find(model, "CONV_2D", 1).inputs[1]], slice(0, 30), 127)

    save(artifact, "artifact")
    Path("net.tflite").write_bytes(edited(content, tamper))
    assert main(["parity", "artifact", "net.tflite", "--images", "4"]) == 3
    said = capsys.readouterr().out
    assert "stored numbers: not as trained" in said
    assert "the first deviation is at operator 2 CONV_2D, Plain/Conv_2:conv: by at most" in said


def test_parity_refuses_in_one_message(
    artifact: Artifact, content: bytes, capsys: pytest.CaptureFixture
):
    save(artifact, "artifact")
    Path("net.tflite").write_bytes(content[:300])
    assert "net.tflite: " in failed(capsys, "parity", "artifact", "net.tflite")
    assert "no file nett.tflite; did you mean" in failed(
        capsys, "parity", "artifact", "nett.tflite"
    )
    assert "holds no artifact" in failed(capsys, "parity", "nowhere", "net.tflite")
    assert (
        "artefact holds no artifact: artifact.json is missing; did you mean 'artifact'?"
        in failed(capsys, "parity", "artefact", "net.tflite")
    )
    assert "images is 0" in failed(capsys, "parity", "artifact", "net.tflite", "--images", "0")


NET = """import flax.linen as nn


class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(images.mean((1, 2)))
"""


def test_parity_of_a_net_that_a_config_file_defines(capsys: pytest.CaptureFixture):
    path = Path("configs/own_nets.py")
    path.parent.mkdir()
    path.write_text(NET)
    pictures = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), dtype=np.uint8)
    try:
        artifact = make(quantized(recipe.imported(path).Net()), pictures)
        save(artifact, "artifact")
        tflite(artifact, "net.tflite", variant="int8", backend="litert")
        del sys.modules["own_nets"]
        arguments = ["parity", "artifact", "net.tflite", "--images", "4"]
        assert failed(capsys, *arguments) == (
            "jaxmini: artifact artifact: own_nets:Net is not to be found, there is no module 'own_nets': "
            "import the file that defines it first, or put its folder on PYTHONPATH, or name that file: "
            "--config FILE\n"
        )
        assert "no config file configs/own_net.py; did you mean 'configs/own_nets.py'" in failed(
            capsys, *arguments, "--config", "configs/own_net.py"
        )
        assert main([*arguments, "--config", str(path)]) == 0
    finally:
        sys.modules.pop("own_nets", None)
    assert "stored numbers: all as trained" in capsys.readouterr().out


def test_parity_runs_a_file_in_tflite_micro_too(
    artifact: Artifact, content: bytes, capsys: pytest.CaptureFixture
):
    pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")
    save(artifact, "artifact")
    Path("net.tflite").write_bytes(content)
    assert main(["parity", "artifact", "net.tflite", "--images", "3", "--micro"]) == 0
    said = capsys.readouterr().out
    (row,) = [line.split() for line in said.splitlines() if line.startswith("micro")]
    assert row[:2] == ["micro", "100.00%"]
    assert "operators of micro on 3 pictures" in said


def test_micro_writes_the_sources_and_says_what_they_need(
    content: bytes, capsys: pytest.CaptureFixture
):
    pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")
    Path("net.tflite").write_bytes(content)
    assert main(["micro", "net.tflite", "sources", "--name", "digits"]) == 0
    said = capsys.readouterr().out
    assert f"{len(content):,}" in said
    arena = re.search(r"kArenaSize = (\d+);", Path("sources/digits.h").read_text())[1]
    assert f"{int(arena):,}" in said
    assert said.splitlines()[-4:] == [
        f"sources/{name}" for name in ("digits.h", "digits.cc", "digits_ops.h", "main.cc")
    ]


def test_micro_refuses_in_one_message(content: bytes, capsys: pytest.CaptureFixture):
    pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")

    def gelu(model: Any, graph: Any) -> None:
        set_code(model, find(model, "ADD"), 150)

    Path("net.tflite").write_bytes(edited(content, gelu))
    assert "GELU is not an operator of TFLite-Micro" in failed(
        capsys, "micro", "net.tflite", "sources"
    )
    Path("net.tflite").write_bytes(content[:300])
    assert "net.tflite: " in failed(capsys, "micro", "net.tflite", "sources")
    assert "no file nett.tflite; did you mean" in failed(capsys, "micro", "nett.tflite", "sources")
    Path("net.tflite").write_bytes(content)
    assert "the name 'a-b' cannot be" in failed(
        capsys, "micro", "net.tflite", "sources", "--name", "a-b"
    )
    assert not Path("sources").exists()
