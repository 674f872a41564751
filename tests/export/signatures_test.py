"""Files of every layout at once, run by the interpreter: what each signature answers."""

import functools
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import simulate
from jaxmini.evaluate.interpreter import LITERT, Interpreter
from jaxmini.evaluate.parity import file_parity
from jaxmini.evaluate.runtime import Kernels, tflite_integers, tflite_predict
from jaxmini.export import (
    Artifact,
    Layout,
    describe_file,
    features,
    flatbuffer,
    integer_form,
    predict,
    tflite,
)
from jaxmini.export.distance import compare
from tests.export.conftest import EVERYTHING, LABELS, make, quantized


def simulated(artifact: Artifact, images: np.ndarray, pattern: str | None = None) -> np.ndarray:
    plan, frozen = integer_form(artifact, len(images))
    plan = plan if pattern is None else features.before(plan, pattern)
    integers = (images.astype(np.int16) - 128).astype(np.int8)
    return np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(integers))


@pytest.fixture(scope="module")
def wide(integer_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything but int4, which XNNPACK does not compute itself."""
    path = tmp_path_factory.mktemp("layout") / "wide.tflite"
    layout = Layout(input="float32", output="float32", batch=3, embedding="Dense_0")
    return tflite(integer_artifact, path, variant="int8", backend="litert", layout=layout).path


@pytest.mark.parametrize("signature", ["serving_default", "embedding"])
def test_both_signatures_equal_the_simulation_bit_for_bit_on_xnnpack(
    signature: str, wide: Path, integer_artifact: Artifact, images: np.ndarray
):
    pattern = "Dense_0" if signature == "embedding" else None
    expected = simulated(integer_artifact, images, pattern)
    answers = tflite_integers(wide, signature=signature)(images)
    np.testing.assert_array_equal(answers, expected)
    assert len(np.unique(answers)) > 20


@pytest.mark.parametrize("kernels", LITERT)
def test_int4_kernels_are_one_step_from_the_simulation_on_all_kernels(
    kernels: Kernels, everything: Path, narrow_artifact: Artifact, images: np.ndarray
):
    for signature, pattern in (("serving_default", None), ("embedding", "Dense_0")):
        answers = tflite_integers(everything, kernels=kernels, signature=signature)(images)
        expected = simulated(narrow_artifact, images, pattern)
        assert compare(expected, answers).largest <= 1


def test_the_interpreter_s_own_runners_read_both(wide: Path, images: np.ndarray):
    import ai_edge_litert.interpreter as litert

    interpreter = litert.Interpreter(model_path=str(wide))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["logits"]},
        "embedding": {"inputs": ["image"], "outputs": ["embedding"]},
    }
    pixels = images[:3].astype(np.float32)
    logits = interpreter.get_signature_runner("serving_default")(image=pixels)["logits"]
    embedding = interpreter.get_signature_runner("embedding")(image=pixels)["embedding"]
    np.testing.assert_array_equal(logits, tflite_predict(wide)(images[:3]))
    np.testing.assert_array_equal(
        embedding, tflite_predict(wide, signature="embedding")(images[:3])
    )
    assert (logits.shape, embedding.shape) == ((3, 10), (3, 8))


def test_weights_of_both_are_stored_once(wide: Path):
    logits, embedding = (flatbuffer.read(wide, key) for key in ("serving_default", "embedding"))
    assert logits.signatures == ("serving_default", "embedding")
    ours, theirs = (
        {t.buffer for t in file.tensors if t.data is not None and t.is_quantized}
        for file in (embedding, logits)
    )
    assert ours < theirs
    assert "FULLY_CONNECTED" not in embedding.op_counts


def test_an_unknown_signature_is_refused(wide: Path):
    with pytest.raises(ValueError, match="no signature 'embeddings'; there is 'serving_default'"):
        tflite_predict(wide, signature="embeddings")


def test_tensors_of_a_signature_are_not_read(wide: Path):
    with pytest.raises(ValueError, match="only the answer of run can be read"):
        Interpreter(wide, signature="embedding").tensor(0)


def test_a_file_of_any_layout_is_compared_with_its_network(
    everything: Path, narrow_artifact: Artifact, images: np.ndarray
):
    found = file_parity(narrow_artifact, everything, images[:7], operator_images=4)
    assert found.is_faithful
    assert found.stored.compared.kernel_integers == 8 * 27 + 8 * 9 + 8 * 8 + 8 * 10
    operators = found.answers[Kernels.REFERENCE].operators
    assert operators[0].name == "CONV_2D"
    assert all(op.deviation.largest <= 1 for op in operators if op.deviation)


def test_the_description_is_of_the_ends(everything: Path):
    described = describe_file(everything)
    assert described["input"] | {"scale": 0} == {
        "name": "image",
        "shape": [3, 8, 8, 3],
        "dtype": "uint8",
        "scale": 0,
        "zero_point": 102,
        "encoding": "pixel",
    }
    assert described["output"] == {"name": "logits", "shape": [3, 10], "dtype": "float32"}
    assert described["embedding"] == {"name": "embedding", "shape": [3, 8], "dtype": "float32"}


@pytest.mark.slow
def test_jax2tf_writes_the_same_integers(
    everything: Path, narrow_artifact: Artifact, images: np.ndarray, tmp_path: Path
):
    path = tmp_path / "jax2tf.tflite"
    tflite(narrow_artifact, path, variant="int8", backend="jax2tf", layout=EVERYTHING)
    for signature in ("serving_default", "embedding"):
        files = [flatbuffer.read(file, signature) for file in (path, everything)]
        assert files[0].op_counts == files[1].op_counts
        stored = [
            sorted(t.data.tobytes() for t in f.tensors if t.data is not None and t.is_quantized)
            for f in files
        ]
        assert stored[0] == stored[1]
        np.testing.assert_array_equal(
            *(tflite_predict(file, signature=signature)(images) for file in (path, everything))
        )


@pytest.mark.parametrize(
    ("variant", "backend"),
    [
        ("float32", "litert"),
        ("dynamic_int8", "litert"),
        pytest.param("float16", "jax2tf", marks=pytest.mark.slow),
    ],
)
def test_float_files_take_uint8_batches_and_give_both(
    variant: str, backend: str, float_artifact: Artifact, images: np.ndarray, tmp_path: Path
):
    layout = Layout(input="uint8", batch=4, embedding="Dense_0", task_metadata=True)
    path = tmp_path / "float.tflite"
    tflite(float_artifact, path, variant=variant, backend=backend, layout=layout)
    logits = tflite_predict(path)(images)
    embedding = tflite_predict(path, signature="embedding")(images)
    head = float_artifact.variables["params"]["Dense_0"]
    expected = np.asarray(predict(float_artifact)(images))
    tolerance = (1e-4 if variant == "float32" else 2e-2) * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, atol=tolerance)
    np.testing.assert_allclose(embedding @ head["kernel"] + head["bias"], expected, atol=tolerance)
    assert len(expected[0]) == len(LABELS)


def test_an_unknown_head_is_refused_before_conversion(
    integer_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def convert(*_: object) -> Callable:
        raise AssertionError("was converted")

    monkeypatch.setattr("jaxmini.export.litert.convert", convert)
    with pytest.raises(ValueError, match="embedding='head' matches no module"):
        tflite(
            integer_artifact,
            tmp_path / "x",
            variant="int8",
            backend="litert",
            layout=Layout(embedding="head"),
        )


class Token(nn.Module):
    """A head that reads one token, with nothing between, as a transformer without a last norm has it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(6, (4, 4), 4, name="embed")(x).reshape(x.shape[0], -1, 6)
        normal = nn.initializers.normal(0.5)
        token = jnp.broadcast_to(self.param("token", normal, (1, 1, 6)), (x.shape[0], 1, 6))
        x = jnp.concatenate([token, x], 1)
        x = x + self.param("positions", normal, (1, *x.shape[1:]))
        x = x + nn.relu(nn.Dense(6, name="mlp")(x))
        return nn.Dense(len(LABELS), name="head")(x[:, 0])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("backend", ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)])
def test_a_head_may_read_one_token(backend: str, batch: int, images: np.ndarray, tmp_path: Path):
    artifact, path = make(quantized(Token()), images), tmp_path / "net.tflite"
    layout = Layout(batch=batch, embedding="head")
    tflite(artifact, path, variant="int8", backend=backend, layout=layout)
    for signature, pattern in (("serving_default", None), ("embedding", "head")):
        answers = tflite_integers(path, signature=signature)(images[:7])
        np.testing.assert_array_equal(answers, simulated(artifact, images[:7], pattern))
