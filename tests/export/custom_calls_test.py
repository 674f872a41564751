"""Custom calls: a network that XLA alone can run is refused by the names of what it calls."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.export import Artifact, flatbuffer, tflite
from jaxmini.export.custom_calls import custom_calls, require_none
from jaxmini.model import from_linen
from tests.export.conftest import LABELS, NORMALIZATION, SHAPE
from tests.export.single import single


def calling(*targets: str | None) -> bytes:
    """A file of as many custom calls."""
    schema = flatbuffer.schema_module()
    model = flatbuffer.load(bytearray(single("ABS", np.float32)))
    (code,), (graph,) = model.operatorCodes, model.subgraphs
    code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.STABLEHLO_CUSTOM_CALL, 127
    (op,) = graph.operators
    graph.operators = []
    for target in targets:
        call, options = schema.OperatorT(), schema.StablehloCustomCallOptionsT()
        call.inputs, call.outputs, options.callTargetName = op.inputs, op.outputs, target
        call.builtinOptions2 = options
        call.builtinOptions2Type = schema.BuiltinOptions2.StablehloCustomCallOptions
        graph.operators.append(call)
    return flatbuffer.dump(model)


def test_calls_are_told_once_by_their_names():
    assert custom_calls(calling("Qr", "Eigh", "Qr")) == ("Eigh", "Qr")
    assert custom_calls(calling(None)) == ("one without a name",)
    assert custom_calls(single("ABS")) == ()
    require_none(single("ABS"))
    with pytest.raises(ValueError, match="operations without a TFLite form: Eigh, Qr .as XLA"):
        require_none(calling("Qr", "Eigh"))


class Orthogonal(nn.Module):
    """Logits of the orthogonal factor of a matrix made of the picture."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        matrix = nn.Dense(9)(images.reshape(images.shape[0], -1)).reshape(-1, 3, 3)
        orthogonal, _ = jnp.linalg.qr(matrix)
        return nn.Dense(len(LABELS))(orthogonal.reshape(-1, 9))


@pytest.mark.parametrize("backend", ["litert", "jax2tf"])
def test_a_network_with_one_is_refused_and_no_file_written(backend: str, tmp_path: Path):
    model = from_linen(Orthogonal())
    variables = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    artifact = Artifact(model, variables, LABELS, NORMALIZATION, SHAPE)
    with pytest.raises(
        ValueError, match="tflite: the model has operations without a TFLite form: .*Qr"
    ):
        tflite(artifact, tmp_path / "a.tflite", backend=backend)
    assert list(tmp_path.iterdir()) == []
