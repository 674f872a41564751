"""Files of int16 activations: every kernel of the interpreter is the simulation, bit for bit."""

import functools
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import (
    Frozen,
    Plan,
    float_island,
    int8,
    lsq,
    make_plan,
    observed,
    per_channel,
    per_tensor,
    simulator,
)
from jaxmini.compress.quantize.plan import INPUT
from jaxmini.evaluate.interpreter import Kernels
from jaxmini.evaluate.operators import first_deviating, operator_parity
from jaxmini.evaluate.parity import file_parity
from jaxmini.evaluate.runtime import tflite_integers, tflite_predict
from jaxmini.export import (
    Artifact,
    ConstraintError,
    Exported,
    Layout,
    ParityError,
    describe_file,
    flatbuffer,
    integer_form,
    litert,
    onnx,
    predict,
    tflite,
    wide_bias,
)
from jaxmini.export.annotate import annotated
from jaxmini.export.constraints import check_integer
from jaxmini.export.integer import pixels
from jaxmini.export.parity import check
from jaxmini.export.signature import OUTPUT
from tests.export.conftest import NORMALIZATION, SHAPE, Block, make, quantized
from tests.export.tampering import change, edited, find

WIDE = int8(activation=observed(bits=16))
# A conversion through TensorFlow takes the ten seconds that TensorFlow takes to start.
BACKENDS = ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)]


class ResNet(nn.Module):
    """Basic blocks with strides and projections, a table that is added, max-pool, a mean with kept axes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def norm() -> nn.BatchNorm:
            return nn.BatchNorm(use_running_average=True)

        x = nn.relu(norm()(nn.Conv(8, (3, 3), use_bias=False)(x)))
        x = x + self.param("table", nn.initializers.normal(0.5), (1, *x.shape[1:]))
        x = nn.max_pool(x, (3, 3), (1, 1), padding=((1, 1), (1, 1)))
        for features, stride in ((8, 1), (12, 2), (12, 1)):
            y = nn.relu(norm()(nn.Conv(features, (3, 3), stride, use_bias=False)(x)))
            y = norm()(nn.Conv(features, (3, 3), use_bias=False)(y))
            if x.shape != y.shape:
                x = norm()(nn.Conv(features, (1, 1), stride, use_bias=False)(x))
            x = nn.relu(x + y)
        x = nn.relu(nn.Conv(7, (1, 1))(x.mean((1, 2), keepdims=True)))
        return nn.Dense(10, use_bias=False)(x[:, 0, 0])


class MobileNet(nn.Module):
    """Inverted bottlenecks: depthwise windows of 3 and 5, relu6, strides, an average pool, a dilation."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(
            x: jax.Array, features: int, window: int = 1, stride: int = 1, **more
        ) -> jax.Array:
            layer = nn.Conv(features, (window,) * 2, stride, use_bias=False, **more)
            return nn.BatchNorm(use_running_average=True)(layer(x))

        x = nn.relu6(conv(x, 8, 3))
        for window, stride in ((3, 1), (5, 2), (3, 1)):
            y = nn.relu6(conv(x, 16))
            y = conv(nn.relu6(conv(y, 16, window, stride, feature_group_count=16)), 8)
            x = x + y if stride == 1 else y
        x = nn.relu(conv(x, 8, 3, kernel_dilation=2)) * nn.relu(conv(x, 8))
        x = nn.pooling.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4.0
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


class Moves(nn.Module):
    """What only moves numbers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = jnp.pad(x, ((0, 0), (1, 1), (0, 2), (0, 0)))
        x = x.transpose(0, 2, 1, 3)[:, 1:, ::2, 2:]
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


class Gate(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * nn.sigmoid(x)


class Islands(nn.Module):
    """A gate and a normalisation that no int16 kernel computes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Gate(name="gate")(nn.Conv(4, (3, 3))(x))
        return nn.Dense(10)(nn.LayerNorm()(x.mean((1, 2))))


NETS = {
    "block": Block(silent=True),
    "resnet": ResNet(),
    "mobilenet": MobileNet(),
    "moves": Moves(),
}


@functools.cache
def artifact_of(name: str, scheme: int8 = WIDE) -> Artifact:
    return make(quantized(NETS[name], scheme), pictures())


@functools.cache
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """(net, backend) -> its int16x8 file; each is converted once."""
    folder = tmp_path_factory.mktemp("int16x8")

    @functools.cache
    def exported(name: str, backend: str = "litert") -> Exported:
        path = folder / f"{name}.{backend}.tflite"
        return tflite(artifact_of(name), path, variant="int16x8", backend=backend)

    return exported


def form_of(name: str, batch: int = 1) -> tuple[Plan, Frozen]:
    return integer_form(artifact_of(name), batch)


def simulated(artifact: Artifact) -> np.ndarray:
    plan, frozen = integer_form(artifact, len(pictures()))
    return simulator(plan, frozen)(pixels(pictures(), frozen.grids[INPUT], NORMALIZATION))


@functools.cache
def expected(name: str) -> np.ndarray:
    return simulated(artifact_of(name))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NETS)
def test_every_kernel_computes_the_simulation(name: str, backend: str, written: Callable):
    file = written(name, backend)
    answers = expected(name)
    assert answers.dtype == np.int16
    assert np.ptp(answers.astype(int)) > 10_000
    for kernels in (Kernels.REFERENCE, Kernels.OPTIMIZED, Kernels.XNNPACK):
        found = tflite_integers(file.path, kernels=kernels)(pictures())
        np.testing.assert_array_equal(found, answers, err_msg=kernels)
    assert file.parity.bias_integers > 0
    assert file.parity.kernel_integers > 300


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kernels", [Kernels.REFERENCE, Kernels.XNNPACK])
def test_every_operator_is_exact(name: str, kernels: Kernels, written: Callable):
    path = written(name).path
    found = operator_parity(path, *form_of(name), pictures()[:4], kernels=kernels)
    assert first_deviating(found) is None
    assert sum(op.deviation.compared for op in found if op.deviation) > 1000


@pytest.mark.parametrize("name", NETS)
def test_answers_are_nearer_to_the_trained_network_than_those_of_8_bits(name: str):
    wide, narrow = artifact_of(name), artifact_of(name, int8())
    plan, frozen = integer_form(narrow, len(pictures()))
    logits = np.asarray(predict(wide)(pictures()))
    eight = np.asarray(
        simulator(plan, frozen)(pixels(pictures(), frozen.grids[INPUT], NORMALIZATION))
    )
    grid = frozen.grids[plan.output_site]
    eight = (eight.astype(np.float64) - grid.zero_point) * grid.scale
    sixteen = expected(name) * np.float64(form_of(name)[1].grids[plan.output_site].scale)
    # Both against the network of 16 bits in float, whose kernels are rounded alike.
    assert np.abs(sixteen - logits).max() < np.abs(eight - logits).max() / 8


def test_an_unrepaired_file_is_refused(written: Callable):
    plan, frozen = form_of("block")
    image = jax.ShapeDtypeStruct((1, *SHAPE), np.dtype(np.int16))
    content = litert.convert(annotated(plan, frozen), image, (OUTPUT,))
    with pytest.raises(ConstraintError, match="its bias is int32, not int64"):
        check_integer(content, input="int16", output="int16", activations="int16")
    repaired = wide_bias.widened(content, plan, frozen)
    check_integer(repaired, input="int16", output="int16", activations="int16")
    # What the checker spares: the interpreter runs the file as it was converted, and answers nonsense.
    whole = flatbuffer.read(written("block").path)
    assert {op.name for op in whole.ops} == {op.name for op in flatbuffer.read(repaired).ops}


def test_a_wrong_bias_is_found_whatever_the_repair(written: Callable):
    plan, frozen = form_of("resnet")
    content = Path(written("resnet").path).read_bytes()

    def other(model, graph):
        tensor = graph.tensors[find(model, "CONV_2D", 1).inputs[2]]
        change(model, tensor, 0, 12345678, np.int64)

    with pytest.raises(ParityError, match="bias: 1 of 8 differ, the first at 0: 12345678"):
        check(edited(content, other), plan, frozen)
    # The repair takes the place of lost bits, not of other numbers.
    again = wide_bias.widened(edited(content, other), plan, frozen)
    with pytest.raises(ParityError, match="bias: 1 of 8 differ"):
        check(again, plan, frozen)


def test_a_missing_bias_becomes_zeros_of_64_bits(written: Callable):
    file = flatbuffer.read(written("resnet").path)
    (dense,) = (op for op in file.ops if op.name == "FULLY_CONNECTED")
    bias = file.tensors[dense.inputs[2]]
    assert bias.dtype == np.int64
    np.testing.assert_array_equal(bias.data, np.zeros(10))
    image, kernel = (file.tensors[index] for index in dense.inputs[:2])
    np.testing.assert_allclose(bias.scale, image.scale * kernel.scale, rtol=1e-6)


@pytest.mark.parametrize(
    "scheme",
    [
        int8(activation=observed(bits=16), kernel=per_channel(bits=4)),
        int8(activation=observed(bits=16), kernel=per_tensor()),
    ],
    ids=["w4a16", "per_tensor"],
)
def test_other_kernels_are_proven_too(scheme: int8, tmp_path: Path):
    artifact = artifact_of("block", scheme)
    path = tflite(artifact, tmp_path / "f.tflite", variant="int16x8", backend="litert").path
    for kernels in (Kernels.REFERENCE, Kernels.XNNPACK):
        found = tflite_integers(path, kernels=kernels)(pictures())
        np.testing.assert_array_equal(found, simulated(artifact))


def test_islands_stay_in_float(tmp_path: Path):
    scheme = int8(activation=observed(bits=16), rules=(float_island("gate"),))
    artifact = make(quantized(Islands(), scheme), pictures())
    file = tflite(artifact, tmp_path / "f.tflite", variant="int16x8", backend="litert")
    assert (file.ops["DEQUANTIZE"], file.ops["QUANTIZE"]) == (2, 2)
    for kernels in (Kernels.REFERENCE, Kernels.XNNPACK):
        found = tflite_integers(file.path, kernels=kernels)(pictures())
        # Float operators may round their last bits apart.
        assert np.abs(found.astype(int) - simulated(artifact)).max() <= 4


def test_a_file_says_how_it_takes_pixels(written: Callable):
    about = describe_file(written("block").path)
    assert about["variant"] == "int16x8"
    assert about["input"]["dtype"] == about["output"]["dtype"] == "int16"
    assert about["input"]["encoding"] == "pixel - 255 * mean"
    assert about["output"]["zero_point"] == 0
    logits = tflite_predict(written("block").path)(pictures())
    np.testing.assert_allclose(logits, expected("block") * np.float32(about["output"]["scale"]))
    assert np.abs(logits - np.asarray(predict(artifact_of("block"))(pictures()))).max() < 0.02


def test_an_artifact_beside_its_file(written: Callable):
    found = file_parity(artifact_of("block"), written("block").path, pictures())
    assert found.is_faithful
    for answers in found.answers.values():
        assert answers.deviation.differing == 0
        assert all(not op.deviation.differing for op in answers.operators if op.deviation)


def test_layouts(tmp_path: Path):
    layout = Layout(output="float32", batch=3, embedding="Dense_0")
    path = tmp_path / "f.tflite"
    tflite(artifact_of("block"), path, variant="int16x8", backend="litert", layout=layout)
    np.testing.assert_array_equal(tflite_integers(path)(pictures()), expected("block"))
    assert tflite_predict(path, signature="embedding")(pictures()).shape == (12, 8)
    for field, value in (("input", "uint8"), ("input", "float32"), ("int4", True)):
        with pytest.raises(ValueError, match="int16x8"):
            Layout(**{field: value}).of("int16x8")


def test_bits_and_variants_must_agree(tmp_path: Path):
    path = tmp_path / "f.tflite"
    with pytest.raises(ValueError, match=r"activations are of 16 bits: export variant 'int16x8'"):
        tflite(artifact_of("block"), path, variant="int8", backend="litert")
    with pytest.raises(ValueError, match=r"activations are of 8 bits: export variant 'int8', or"):
        tflite(artifact_of("block", int8()), path, variant="int16x8", backend="litert")
    for bits in (4, 7):
        artifact = artifact_of("block", int8(activation=lsq(bits=bits)))
        with pytest.raises(
            ValueError, match=rf"'Block/Conv_0:conv' has {bits} \(\d grids in all\)"
        ):
            tflite(artifact, path, variant="int8", backend="litert")
    with pytest.raises(ValueError, match="'int16x8' to a .tflite"):
        onnx(artifact_of("block"), tmp_path / "f.onnx", variant="int8")
    assert not path.exists()


def test_a_float_input_without_a_given_grid_is_wide_too():
    model = quantized(NETS["block"], WIDE)
    plan = make_plan(
        model, model.init(jax.random.key(0), jnp.zeros((1, *SHAPE))), jnp.zeros((1, *SHAPE))
    )
    grid = plan.fixed[INPUT]
    assert (grid.bits, int(grid.zero_point)) == (16, 0)
    assert np.float32(grid.scale) == np.float32(NORMALIZATION.scale)
