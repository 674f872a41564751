"""Custom calls: a network that XLA alone can run is refused by their names, before any converter starts."""

from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.export import Artifact, converter, tflite
from jaxmini.export.custom_calls import custom_calls, require_none
from jaxmini.export.lowering import lower
from jaxmini.model import from_linen
from tests.export.conftest import LABELS, NORMALIZATION, SHAPE

MATRIX = jax.ShapeDtypeStruct((1, 4, 4), np.dtype(np.float32))
QR = ("ProductOfElementaryHouseholderReflectors", "Qr")


def repeated(x: jax.Array) -> jax.Array:
    """The same within the body of a loop."""
    return jax.lax.fori_loop(0, 3, lambda _, x: jnp.linalg.qr(x)[0], x)


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (jax.lax.erf, ()),
        (lambda x: jax.lax.top_k(x, 2)[0], ()),
        (lambda x: jax.image.resize(x, (1, 8, 8), "cubic"), ()),
        (lambda x: jnp.linalg.qr(x)[0], QR),
        (lambda x: jnp.linalg.eigh(x)[1] + jnp.linalg.qr(x)[0], ("Eigh", *QR)),
        (repeated, QR),
    ],
)
def test_calls_are_told_once_by_their_names(function: Callable, calls: tuple[str, ...]):
    assert custom_calls(lower(function, MATRIX)) == calls


def test_none_is_what_most_programs_have():
    require_none(lower(jnp.abs, MATRIX))


class Orthogonal(nn.Module):
    """Logits of the orthogonal factor of a matrix made of the picture."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        matrix = nn.Dense(9)(images.reshape(images.shape[0], -1)).reshape(-1, 3, 3)
        orthogonal, _ = jnp.linalg.qr(matrix)
        return nn.Dense(len(LABELS))(orthogonal.reshape(-1, 9))


@pytest.mark.parametrize("backend", ["litert", "jax2tf"])
def test_a_network_with_one_is_refused_before_it_is_converted(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = from_linen(Orthogonal())
    variables = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    artifact = Artifact(model, variables, LABELS, NORMALIZATION, SHAPE)
    monkeypatch.setattr(converter, "run", lambda *_: pytest.fail("it was converted"))
    with pytest.raises(
        ValueError,
        match=f"tflite: the model has operations without a TFLite form: {', '.join(QR)} ",
    ):
        tflite(artifact, tmp_path / "a.tflite", backend=backend)
    assert list(tmp_path.iterdir()) == []
