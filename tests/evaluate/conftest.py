"""A small network as artifacts, float and of integers, and the files made of them."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini.export import Artifact, tflite
from jaxmini.model import from_linen
from tests.export.conftest import NORMALIZATION, SHAPE, make, quantized
from tests.export.tampering import edited


class Plain(nn.Module):
    """Convolutions of every kind, a residual sum, a mean and a dense layer, all with biases; no BatchNorm."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        y = nn.relu6(nn.Conv(8, (3, 3), feature_group_count=8)(x))
        x = nn.relu(x + nn.Conv(8, (1, 1))(y))
        x = nn.relu(nn.Conv(12, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))(x))
        return nn.Dense(10)(x.mean((1, 2)))


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="session")
def integer_artifact(pictures: np.ndarray) -> Artifact:
    return make(quantized(Plain()), pictures)


@pytest.fixture(scope="session")
def float_artifact(integer_artifact: Artifact) -> Artifact:
    """The same parameters in floating point."""
    variables = {"params": integer_artifact.variables["params"]}
    return Artifact(from_linen(Plain()), variables, integer_artifact.labels, NORMALIZATION, SHAPE)


@pytest.fixture(scope="session")
def integer_path(integer_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "int8.tflite"
    return tflite(integer_artifact, path, variant="int8", backend="litert").path


@pytest.fixture(scope="session")
def float_path(float_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "float.tflite"
    return tflite(float_artifact, path, backend="litert").path


def without_metadata(content: bytes) -> bytes:
    """The file as another converter would have left it."""

    def strip(model: Any, graph: Any) -> None:
        model.metadata = []

    return edited(content, strip)


@pytest.fixture(scope="session")
def loops() -> bytes:
    """A file of a loop and a branch, as TensorFlow's converter writes them: [1, 4] to [1, 4]."""
    tf = pytest.importorskip("tensorflow", reason="needs jaxmini[jax2tf]")
    kernel = tf.constant(np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32)])
    def net(row):
        def body(index, row):
            return index + 1, tf.tanh(tf.matmul(row, kernel))

        _, row = tf.while_loop(lambda index, _: index < 3, body, (tf.constant(0), row))
        return tf.cond(tf.reduce_sum(row) > 0, lambda: tf.matmul(row, kernel), lambda: -row)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([net.get_concrete_function()], net)
    return converter.convert()
