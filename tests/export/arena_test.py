"""The arena: what TFLite-Micro reports, what is needed, and how it fails."""

import importlib.util
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini.evaluate.memory import peak_bytes
from jaxmini.export import MicroError, arena, flatbuffer, run_micro, tflite
from tests.export.conftest import make, quantized
from tests.export.single import single

pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")

HANGS = "import time; time.sleep(60)"
CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


class Chain(nn.Module):
    """Many layers and few numbers: planning the memory takes more of it than the activations."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for _ in range(9):
            x = nn.relu(nn.Dense(4)(x))
        return nn.Dense(10)(x)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("chain") / "chain.tflite"
    artifact = make(quantized(Chain()), images)
    return tflite(artifact, path, variant="int8", backend="litert").path.read_bytes()


def test_the_report_adds_up_and_holds_the_activations(integer_bytes: bytes):
    found = arena.measure(integer_bytes)
    assert found.total == found.activations + found.persistent
    assert found.activations >= peak_bytes(flatbuffer.read(integer_bytes))
    assert found.smallest == found.total
    assert found.smallest < arena.roomy(flatbuffer.read(integer_bytes))


@pytest.mark.parametrize("which", ["integer_bytes", "chain"])
def test_it_runs_with_the_smallest_and_not_with_less(which: str, request: pytest.FixtureRequest):
    content = request.getfixturevalue(which)
    found = arena.measure(content)
    assert found.smallest % 16 == 0
    arena.trial(content, "net", found.smallest)
    with pytest.raises(MicroError):
        arena.trial(content, "net", found.smallest - 16)


def test_many_layers_need_more_than_is_reported(chain: bytes):
    found = arena.measure(chain)
    assert found.smallest > found.total == found.activations + found.persistent


def test_the_size_of_the_arena_does_not_change_the_answers(integer_bytes: bytes):
    tight, roomy = (
        run_micro.interpreter(integer_bytes, size)
        for size in (arena.measure(integer_bytes).smallest, 1 << 20)
    )
    for _ in range(10):
        picture = np.random.default_rng(3).integers(-128, 128, (1, 8, 8, 3)).astype(np.int8)
        for made in (tight, roomy):
            made.set_input(picture, 0)
            made.invoke()
        np.testing.assert_array_equal(tight.get_output(0), roomy.get_output(0))


def test_what_the_interpreter_says_is_passed_on(tmp_path: Path):
    path = tmp_path / "steep.tflite"
    path.write_bytes(single("LOGISTIC"))  # of another grid than its kernel's
    with pytest.raises(MicroError, match=r"steep\.tflite: TFLite-Micro does not run") as caught:
        arena.measure(path)
    assert "Node LOGISTIC (number 0) failed to prepare with status 1" in caught.value.reasons
    assert not any("Traceback" in reason for reason in caught.value.reasons)


def test_a_crash_and_a_run_without_end_are_messages(
    integer_bytes: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    script = tmp_path / "trial.py"
    monkeypatch.setattr(run_micro, "__file__", str(script))
    script.write_text(CRASHES)
    with pytest.raises(MicroError, match=r"net: .*\n  it crashes on it \(SIGSEGV\)"):
        arena.trial(integer_bytes, "net", 1 << 16)
    monkeypatch.setattr(arena, "TRIAL_SECONDS", 1)
    script.write_text(HANGS)
    with pytest.raises(MicroError, match="it did not end within 1 s"):
        arena.trial(integer_bytes, "net", 1 << 16)


def test_without_the_package_its_extra_is_named(
    integer_bytes: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tflite_micro is not installed.*'jaxmini\[micro\]'"):
        arena.trial(integer_bytes, "net", 1 << 16)


def test_the_trial_imports_nothing_of_this_package():
    text = Path(run_micro.__file__).read_text()
    assert "import jaxmini" not in text
    assert "from jaxmini" not in text
