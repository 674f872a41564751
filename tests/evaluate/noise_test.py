"""Noise of layers: that of the file's own numbers, of one layer alone, and what has none."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini import models
from jaxmini.compress.quantize import Frozen, Plan, quant_point
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.evaluate.noise import LayerNoise, layer_noise
from jaxmini.evaluate.runtime import tflite_integers
from jaxmini.export import Artifact, integer_form, predict, tflite
from jaxmini.model import from_linen
from tests.compress.quantize.token_nets import Encoder, causal, sentences
from tests.export.conftest import NORMALIZATION, make, quantized
from tests.export.masked import calibrated, masked
from tests.export.tampering import change, edited, find


@pytest.fixture(scope="module")
def form(integer_artifact: Artifact) -> tuple[Plan, Frozen]:
    return integer_form(integer_artifact)


@pytest.fixture(scope="module")
def found(
    integer_path: Path, form: tuple, integer_artifact: Artifact, pictures: np.ndarray
) -> dict[str, LayerNoise]:
    noise = layer_noise(integer_path, *form, integer_artifact.variables, pictures)
    return {one.group: one for one in noise}


def decibels(signal: np.ndarray, other: np.ndarray) -> float:
    signal, other = signal.astype(np.float64), other.astype(np.float64)
    return 10 * np.log10((signal**2).sum() / ((other - signal) ** 2).sum())


def test_every_layer_that_computes_is_there_in_order(found: dict[str, LayerNoise]):
    assert [(one.group, one.operator) for one in found.values()] == [
        ("Plain/Conv_0:conv", "CONV_2D"),
        ("Plain/Conv_1:conv", "DEPTHWISE_CONV_2D"),
        ("Plain/Conv_2:conv", "CONV_2D"),
        ("Plain:add", "ADD"),
        ("Plain/Conv_3:conv", "CONV_2D"),
        ("Plain:mean", "MEAN"),
        ("Plain/Dense_0:dense", "FULLY_CONNECTED"),
    ]


def test_the_last_layer_is_as_far_as_the_files_answers(
    found: dict[str, LayerNoise],
    integer_path: Path,
    form: tuple[Plan, Frozen],
    float_artifact: Artifact,
    pictures: np.ndarray,
):
    plan, frozen = form
    grid = frozen.grids[plan.output_site]
    answers = (tflite_integers(integer_path)(pictures).astype(int) - grid.zero_point) * grid.scale
    expected = decibels(np.asarray(predict(float_artifact)(pictures)), answers)
    assert found["Plain/Dense_0:dense"].sqnr == pytest.approx(expected, abs=1e-3)


def test_a_layer_alone_is_its_kernel_and_its_output_rounded(
    found: dict[str, LayerNoise],
    form: tuple[Plan, Frozen],
    float_artifact: Artifact,
    pictures: np.ndarray,
):
    _, frozen = form
    params = float_artifact.variables["params"]

    def through(layers: int, kernels: dict) -> np.ndarray:
        x = NORMALIZATION(pictures)
        for index in range(layers):
            module = nn.Conv(8, (3, 3), feature_group_count=8 if index else 1)
            y = module.apply({"params": kernels.get(index, params[f"Conv_{index}"])}, x)
            x = jax.nn.relu6(y) if index else jax.nn.relu(y)
        return np.asarray(x)

    stored = frozen.kernels["Plain/Conv_1:conv"]
    bias = stored.bias * stored.input_scale.astype(np.float64) * stored.scale
    rounded = {1: {"kernel": stored.float_kernel, "bias": bias.astype(np.float32)}}
    grid = frozen.grids["Plain/Conv_1:conv"]
    steps = np.round(through(2, rounded) / np.float64(grid.scale)) + grid.zero_point
    values = (np.clip(steps, -128, 127) - grid.zero_point) * np.float64(grid.scale)
    expected = decibels(through(2, {}), values)
    assert found["Plain/Conv_1:conv"].alone == pytest.approx(expected, abs=0.02)


def test_nothing_is_rounded_before_the_first_layer(found: dict[str, LayerNoise]):
    first, *others = found.values()
    assert first.sqnr == pytest.approx(first.alone, abs=0.05)
    assert all(one.sqnr < one.alone + 0.05 for one in others)


def test_it_is_the_file_that_is_measured(
    found: dict[str, LayerNoise],
    integer_path: Path,
    form: tuple[Plan, Frozen],
    integer_artifact: Artifact,
    pictures: np.ndarray,
):
    def depthwise_bias(model: Any, graph: Any) -> None:
        tensor = graph.tensors[find(model, "DEPTHWISE_CONV_2D").inputs[2]]
        change(model, tensor, 0, 123456, np.int32)

    content = edited(integer_path.read_bytes(), depthwise_bias)
    noise = layer_noise(content, *form, integer_artifact.variables, pictures)
    before, changed, after, *_ = noise
    assert before == found[before.group]
    assert changed.sqnr < found[changed.group].sqnr - 10
    assert after.sqnr < found[after.group].sqnr - 1
    assert [one.alone for one in noise] == [one.alone for one in found.values()]


class Quiet(nn.Module):
    """A branch whose kernel is zero beside one that is not."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        zero = nn.Conv(4, (1, 1), use_bias=False, kernel_init=nn.initializers.zeros)(x)
        return nn.Dense(10)((x + zero).mean((1, 2)))


def noise_of(net: nn.Module, pictures: np.ndarray, folder: Path) -> list[LayerNoise]:
    artifact = make(quantized(net), pictures)
    path = tflite(artifact, folder / "net.tflite", variant="int8", backend="litert").path
    return list(layer_noise(path, *integer_form(artifact), artifact.variables, pictures[:4]))


def test_a_layer_that_gives_only_zeros_has_no_ratio(pictures: np.ndarray, tmp_path: Path):
    found = {one.group: one for one in noise_of(Quiet(), pictures, tmp_path)}
    quiet = found.pop("Quiet/Conv_1:conv")
    assert (quiet.sqnr, quiet.alone) == (None, None)
    assert all(one.sqnr > 10 and one.alone > 10 for one in found.values())


def test_islands_and_products_are_layers_too(pictures: np.ndarray, tmp_path: Path):
    net = models.vit(10, patch=4, width=16, layers=1, heads=2)
    found = noise_of(net, pictures, tmp_path)
    assert {"FLOAT_ISLAND", "BATCH_MATMUL", "SOFTMAX"} <= {one.operator for one in found}
    assert all(one.alone >= one.sqnr - 0.05 > 0 for one in found)


def test_files_and_pictures_of_another_kind_are_refused(
    integer_path: Path,
    float_path: Path,
    form: tuple[Plan, Frozen],
    integer_artifact: Artifact,
    pictures: np.ndarray,
):
    variables = integer_artifact.variables
    with pytest.raises(ValueError, match="layer_noise: the file is float32 -> float32, not int8"):
        layer_noise(float_path, *form, variables, pictures)
    with pytest.raises(ValueError, match=r"layer_noise: expected uint8 pictures \[N, 8, 8, 3\]"):
        layer_noise(integer_path, *form, variables, pictures[:0])
    with pytest.raises(TypeError, match=r"layer_noise: the pictures are a list, .*np.concatenate"):
        layer_noise(integer_path, *form, variables, [pictures])


def test_layers_of_a_network_of_tokens_are_measured():
    (content, plan, frozen), (_, variables) = masked(), calibrated()
    tokens = np.asarray(sentences())
    found = {one.group: one for one in layer_noise(content, plan, frozen, variables, tokens)}
    assert {"SOFTMAX", "BATCH_MATMUL", "FULLY_CONNECTED"} <= {
        one.operator for one in found.values()
    }
    assert min(one.alone for one in found.values()) > 10
    grid = frozen.grids[plan.output_site]
    interpreter = Interpreter(content)
    integers = np.concatenate([interpreter.run(one[None]) for one in tokens])
    answers = (integers.astype(int) - grid.zero_point) * grid.scale
    floats, _ = from_linen(Encoder(causal)).apply(variables, tokens)
    expected = decibels(np.asarray(floats), answers)
    assert found["Encoder/head:dense"].sqnr == pytest.approx(expected, abs=0.01)


class Marked(nn.Module):
    """A point between a convolution and its rectifier."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(10)(nn.relu(quant_point(nn.Conv(4, (3, 3))(x), "pre")).mean((1, 2)))


def test_a_rectifier_in_the_operator_before_it_is_a_layer(pictures: np.ndarray, tmp_path: Path):
    """The file has no numbers of what it rectifies."""
    found = {one.group: one for one in noise_of(Marked(), pictures, tmp_path)}
    before, rectified = found["Marked/pre:conv"], found["Marked:relu"]
    assert (before.operator, before.sqnr, rectified.operator) == ("CONV_2D", None, "CONV_2D")
    assert min(before.alone, rectified.alone, rectified.sqnr) > 10
