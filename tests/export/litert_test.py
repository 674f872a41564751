"""litert: what its converter is given and asked for, and what it says of what it cannot do."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.export import ConversionError, converter, litert


def test_what_litert_cannot_convert_is_told():
    def sorts(image: jax.Array) -> jax.Array:
        return jnp.fft.fft(image).real

    image = jax.ShapeDtypeStruct((1, 7), np.dtype(np.complex64))
    with pytest.raises(ConversionError, match="convert_litert.py"):
        litert.convert(sorts, image)


def test_the_child_gets_the_program_and_the_names_of_both_ends(monkeypatch: pytest.MonkeyPatch):
    asked = {}

    def run(script: Path, folder: Path, options: dict) -> None:
        asked.update(json.loads(json.dumps(options)), script=script)
        assert (folder / "program.stablehlo").read_bytes()[:4] == b"ML\xefR"
        (folder / "model.tflite").write_bytes(b"a file")

    monkeypatch.setattr(converter, "run", run)
    image = jax.ShapeDtypeStruct((1, 4), np.dtype(np.float32))
    assert litert.convert(lambda x: (x, x + 1), image, ("logits", "embedding")) == b"a file"
    assert asked == {
        "script": litert.CONVERTER,
        "signature": "serving_default",
        "inputs": ["image"],
        "outputs": ["logits", "embedding"],
    }
    assert litert.CONVERTER.exists()
