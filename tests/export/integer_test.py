"""Integer: files of networks that are no artifacts, through both back ends; gammas of every sign and size."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import (
    Grid,
    calibrate,
    floats_of,
    freeze,
    int8,
    learned_min_max,
    lsq,
    make_plan,
    observed,
    pact,
    quantize,
    rule,
    simulate,
)
from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.grid import quantized
from jaxmini.compress.quantize.plan import INPUT, Plan
from jaxmini.data import Normalization
from jaxmini.export import Artifact, Layout, integer_file, integer_form
from jaxmini.export.flatbuffer import read
from jaxmini.export.integer import _check_input_grid
from jaxmini.model import from_linen

# A conversion through TensorFlow takes the ten seconds that TensorFlow takes to start.
BACKENDS = ["litert", pytest.param("jax2tf", marks=pytest.mark.slow)]
SCHEME = int8()
GAMMAS = (-1.5, 0.0, -1e-12, 1e-30, 1e-6, 2.0)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return nn.relu(x + nn.Conv(4, (3, 3))(x)), None


class Pictures(nn.Module):
    """Scanned layers, every way to enlarge, extremes, a mask, a border, an einsum: pictures to pictures."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(4, (3, 3), 2, name="stem")(x)
        axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        x, _ = nn.scan(Layer, length=2, **axes)(name="layers")(x, None)
        a = nn.ConvTranspose(4, (3, 3), (2, 2), name="up")(x)
        b = jax.image.resize(x, (x.shape[0], 8, 8, 4), "nearest")
        c = jax.image.resize(x, (x.shape[0], 8, 8, 4), "bilinear")
        mask = np.tril(np.ones((8, 8), bool))[None, :, :, None]
        x = jnp.where(mask, jnp.maximum(c, a), jnp.minimum(b, c))
        x = jnp.pad(
            x[..., np.array([3, 0, 1])], ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=0.5
        )
        return nn.Einsum((3, 2), "bhwc,co->bhwo", name="head")(x)


class Gammas(nn.Module):
    """BatchNorms whose factors are negative, zero and tiny, before a relu and before a sum."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def norm() -> nn.BatchNorm:
            return nn.BatchNorm(
                use_running_average=True,
                scale_init=lambda *_: jnp.array(GAMMAS),
                bias_init=nn.initializers.normal(0.5),
            )

        x = nn.relu(norm()(nn.Conv(6, (3, 3), name="conv")(x)))
        y = norm()(nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise")(x))
        x = x + norm()(y)  # a second one on top
        return nn.Dense(3, name="head")(x.mean((1, 2)))


class Tokens(nn.Module):
    """An embedding, and one dense layer used twice."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        dense = nn.Dense(6, name="shared")
        x = nn.relu(dense(nn.relu(dense(nn.Embed(11, 6)(tokens)))))
        return nn.Dense(3, name="head")(x.mean(1))


def integers(
    module: nn.Module, inputs: jax.Array, scheme: int8 = SCHEME
) -> tuple[Plan, Frozen, np.ndarray, np.ndarray]:
    """Plan and frozen numbers of one input, the inputs of the file, and what the simulation answers."""
    model = quantize(from_linen(module), scheme)
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    variables = calibrate(model, variables, [inputs])
    plan, one = (make_plan(model, variables, x) for x in (inputs, inputs[:1]))
    frozen = freeze(plan, variables)
    simulated = jax.jit(functools.partial(simulate, plan, frozen))(inputs)
    stored = inputs if plan.reads_tokens else quantized(inputs, frozen.grids[INPUT])
    return one, freeze(one, variables), np.asarray(stored), np.asarray(simulated)


def answers(content: bytes, inputs: np.ndarray) -> np.ndarray:
    """What a file answers on XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for row in inputs:
        interpreter.set_tensor(source["index"], row[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target["index"])[0].copy())
    return np.stack(rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pictures_to_pictures(backend: str):
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    plan, frozen, inputs, simulated = integers(Pictures(), x)
    content, parity = integer_file(plan, frozen, backend)
    np.testing.assert_array_equal(answers(content, inputs), simulated)
    ops = read(content).op_counts
    assert all(tensor.dtype != np.int64 for tensor in read(content).tensors)
    assert {"RESIZE_NEAREST_NEIGHBOR", "MAXIMUM", "MINIMUM", "PADV2"} <= ops.keys()
    assert "TRANSPOSE_CONV" not in ops
    assert parity.groups == len(plan.weighted) + 2  # two sums


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens(backend: str):
    tokens = jax.random.randint(jax.random.key(1), (6, 5), 0, 11)
    plan, frozen, inputs, simulated = integers(Tokens(), tokens)
    content, parity = integer_file(plan, frozen, backend)
    np.testing.assert_array_equal(answers(content, inputs), simulated)
    assert parity.constant_integers == 11 * 6
    assert parity.kernel_integers == 2 * 6 * 6 + 6 * 3
    assert read(content).op_counts["GATHER_ND"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_gammas_of_every_sign_and_size(backend: str):
    x = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    plan, frozen, inputs, simulated = integers(Gammas(), x)
    kernel = frozen.kernels["Gammas/conv:conv"]
    assert np.all(kernel.scale > 0)
    silent = np.abs(kernel.kernel.reshape(-1, 6)).max(0) == 0
    np.testing.assert_array_equal(silent, [False, True, True, True, False, False])
    content, _ = integer_file(plan, frozen, backend)
    np.testing.assert_array_equal(answers(content, inputs), simulated)
    assert np.ptp(simulated.astype(int)) > 50


def test_an_unknown_back_end_is_refused():
    with pytest.raises(ValueError, match="unknown backend 'litter'.*did you mean 'litert'"):
        integer_file(*integers(Tokens(), jnp.zeros((1, 5), jnp.int32))[:2], "litter")


def test_a_layout_that_the_plan_is_not_for_is_refused():
    plan, frozen, *_ = integers(Tokens(), jnp.zeros((1, 5), jnp.int32))
    with pytest.raises(ValueError, match="batch is 4, and the plan is for 1"):
        integer_file(plan, frozen, "litert", Layout(batch=4))
    with pytest.raises(ValueError, match="input is 'uint8', .*reads tokens"):
        integer_file(plan, frozen, "litert", Layout(input="uint8"))


def test_a_file_of_tokens_may_give_floats():
    tokens = jax.random.randint(jax.random.key(1), (6, 5), 0, 11)
    plan, frozen, inputs, simulated = integers(Tokens(), tokens)
    content, _ = integer_file(plan, frozen, "litert", Layout(output="float32"))
    grid = frozen.grids[plan.output_site]
    steps = simulated.astype(np.float32) - grid.zero_point
    np.testing.assert_allclose(answers(content, inputs), steps * grid.scale, rtol=1e-6)


class Brightness(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.mean((1, 2))


def test_a_float_artifact_has_no_integers():
    model = from_linen(Brightness())
    artifact = Artifact(model, {"params": {}}, ("a",), Normalization(0.5, 0.5), (4, 4, 1))
    with pytest.raises(
        ValueError, match=r"needs a quantized model: wrap it as quantize\(model, inp"
    ):
        integer_form(artifact)


def test_the_grid_of_the_input_is_that_of_normalised_pixels_to_the_last_bit():
    """The file takes pixels as they are: another grid would be another picture."""
    normalization = Normalization(0.25, 0.5)
    scale, zero_point = np.float32(normalization.scale), np.int32(normalization.zero_point)
    _check_input_grid(Frozen({INPUT: Grid(scale, zero_point)}, {}, {}), normalization)
    for other in (
        Grid(np.nextafter(scale, np.float32(1)), zero_point),
        Grid(scale, zero_point + 1),
    ):
        with pytest.raises(ValueError, match="Quantize the model with the grid of the normalizat"):
            _check_input_grid(Frozen({INPUT: other}, {}, {}), normalization)


class Ends(nn.Module):
    """A convolution with BatchNorm, a depthwise one, a sum, a mean and a dense layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=True)
        x = nn.relu(norm(nn.Conv(4, (3, 3), 2, name="stem")(x)))
        x = x + nn.relu(nn.Conv(4, (3, 3), feature_group_count=4, name="depthwise")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


PICTURES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
CONSTANT = {
    "zero": jnp.zeros_like(PICTURES),
    "positive": jnp.full_like(PICTURES, 0.7),
    "negative": jnp.full_like(PICTURES, -0.7),
}


@pytest.mark.parametrize("silent", [False, True], ids=["trained", "all parameters zero"])
@pytest.mark.parametrize("shown", CONSTANT)
def test_ranges_of_constants_reach_the_file(shown: str, silent: bool):
    """Of pictures that are one number, and of a network that is: every scale is stored, and computes."""
    model = quantize(from_linen(Ends()))
    variables = jax.jit(model.init)(jax.random.key(0), PICTURES)
    if silent:  # variances too: BatchNorm divides by the root of its epsilon
        variables = jax.tree.map(jnp.zeros_like, floats_of(variables))
    variables = calibrate(model, variables, [CONSTANT[shown]])
    one = make_plan(model, variables, PICTURES[:1])
    frozen = freeze(one, variables)
    content, parity = integer_file(one, frozen, "litert")
    assert parity.kernel_integers == sum(k.kernel.size for k in frozen.kernels.values())
    assert parity.grids >= len(one.sites)
    inputs = np.stack([CONSTANT[shown][0], PICTURES[0]])
    plan = make_plan(model, variables, inputs)
    simulated = jax.jit(functools.partial(simulate, plan, frozen))(inputs)
    found = answers(content, np.asarray(quantized(inputs, frozen.grids[INPUT])))
    np.testing.assert_array_equal(found, simulated)


class Silent(nn.Module):
    """A rectifier that never opens, and BatchNorm whose factor is zero."""

    rectifier: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(6, (3, 3), name="stem")(x))
        below = nn.initializers.constant(-10.0)
        closed = self.rectifier(nn.Conv(6, (3, 3), bias_init=below, name="closed")(x))
        norm = nn.BatchNorm(use_running_average=True, scale_init=nn.initializers.zeros)
        zero = self.rectifier(norm(nn.Conv(6, (3, 3), use_bias=False, name="zero")(x)))
        alone = nn.Dense(3, name="alone")(closed.mean((1, 2)))
        return nn.Dense(3, name="head")((x + closed + zero).mean((1, 2))) + alone


CLOSED = {
    "relu": (nn.relu, int8()),
    "relu6": (nn.relu6, int8()),
    "none": (lambda x: x, int8()),
    "lsq": (nn.relu, int8(activation=lsq())),
    "pact": (nn.relu, int8(activation=pact())),
}


@pytest.mark.parametrize(("rectifier", "scheme"), CLOSED.values(), ids=CLOSED)
def test_where_nothing_but_zeros_was_seen_kernels_run(rectifier: Callable, scheme: int8):
    """Steps of next to nothing are refused by XNNPACK, overflow before a relu6, and end the process."""
    plan, frozen, inputs, simulated = integers(Silent(rectifier), PICTURES, scheme)
    content, _ = integer_file(plan, frozen, "litert")
    np.testing.assert_array_equal(answers(content, inputs), simulated)
    assert np.ptp(simulated.astype(int)) > 100


class Products(nn.Module):
    """Products of tokens with tokens and of what they give with tokens, as attention has them."""

    turned: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        first, second, third = (nn.Dense(16, name=name)(tokens) for name in "abc")
        scores = jnp.einsum("bqd,bkd->bqk", first, second)
        rectified = nn.relu(nn.Dense(16)(tokens))
        more = jax.lax.dot_general(third, rectified, (((2,), (2,)), ((0,), (0,))))
        more = more.swapaxes(1, 2) if self.turned else more
        return jnp.einsum("bqk,bqd->bkd", scores + more, first)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("net", "shifted", "centred"),
    [
        (Products(), "", [True, True, True]),
        (Products(), "a", [True, True, False]),
        (Products(), "abc", [False, False, False]),
        # What a rectifier leaves is not spent on a grid of two signs, and its place is the second.
        (Products(turned=False), "", [True, False, True]),
    ],
)
def test_products_of_activations(net: Products, shifted: str, centred: list[bool], backend: str):
    """XNNPACK has a kernel where the second operand's zero point is 0; LiteRT's own rounds otherwise."""
    x = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    rules = tuple(rule(name, activation=learned_min_max()) for name in shifted)
    plan, frozen, inputs, simulated = integers(net, x, int8(rules=rules))
    content, _ = integer_file(plan, frozen, backend)
    np.testing.assert_array_equal(answers(content, inputs), simulated)
    file = read(content)
    seconds = [file.tensors[op.inputs[1]] for op in file.ops if op.name == "BATCH_MATMUL"]
    assert [int(tensor.zero_point[0]) == 0 for tensor in seconds] == centred


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("module", [Ends(), Pictures()], ids=["ends", "pictures"])
def test_symmetric_activations(module: nn.Module, backend: str):
    """Zero point 0 everywhere, before rectifiers, sums and means too; the file computes the simulation."""
    scheme = int8(activation=observed(symmetric=True))
    plan, frozen, inputs, simulated = integers(module, PICTURES, scheme)
    assert {int(grid.zero_point) for grid in frozen.grids.values()} == {0}
    content, _ = integer_file(plan, frozen, backend)
    tensors = read(content).tensors
    assert {int(zero) for t in tensors if t.is_quantized for zero in np.ravel(t.zero_point)} == {0}
    np.testing.assert_array_equal(answers(content, inputs), simulated)
    assert np.ptp(simulated.astype(int)) > 50


class Own(nn.Module):
    """The model's own input beside what is computed of it: joined, chosen from, and at the end of a U."""

    join: Callable[[jax.Array, jax.Array], jax.Array]
    features: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Conv(self.features, (3, 3), name="conv")(x)
        return nn.Conv(2, (3, 3), name="head")(self.join(x, y))


class Skip(nn.Module):
    """A U-Net of one level whose outermost skip is the input."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(nn.Conv(6, (3, 3), 2, name="down")(x))
        y = nn.ConvTranspose(4, (2, 2), (2, 2), name="up")(y)
        return nn.Conv(2, (3, 3), name="head")(jnp.concatenate([y, x], -1))


OWN = {
    "concatenate": Own(lambda x, y: jnp.concatenate([x, y], -1), 5),
    "of a rectifier": Own(lambda x, y: jnp.concatenate([nn.relu(y), x], -1)),
    "maximum": Own(jnp.maximum),
    "where": Own(lambda x, y: jnp.where(np.eye(8, dtype=bool)[None, :, :, None], x, y)),
    "after a move": Own(lambda x, y: jnp.stack([y, x[:, ::-1]], -1).reshape(*x.shape[:-1], -1)),
    "skip": Skip(),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OWN)
def test_what_shares_the_grid_of_the_input_is_computed(name: str, backend: str):
    """It lies on the site of the input, and is not the argument of the file."""
    plan, frozen, inputs, simulated = integers(OWN[name], PICTURES)
    assert plan.ties.keys() == {INPUT}
    content, _ = integer_file(plan, frozen, backend)
    np.testing.assert_array_equal(answers(content, inputs), simulated)
    assert np.ptp(simulated.astype(int)) > 100


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_input_that_others_share_may_be_pixels(dtype: type):
    plan, frozen, inputs, simulated = integers(OWN["concatenate"], PICTURES)
    layout = Layout(input=np.dtype(dtype).name)
    content, _ = integer_file(plan, frozen, "litert", layout)
    pixels = (inputs.astype(np.int16) + 128).astype(dtype)
    np.testing.assert_array_equal(answers(content, pixels), simulated)


def test_the_input_may_be_what_comes_out_beside_others():
    """The output lies on the input's grid too."""
    whole = Own(lambda x, y: jnp.concatenate([x, y], -1)).join

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return whole(x, nn.relu(nn.Conv(4, (3, 3))(whole(x, nn.Conv(3, (3, 3))(x)))))

    plan, frozen, inputs, simulated = integers(Net(), PICTURES)
    assert plan.output_site == INPUT
    content, _ = integer_file(plan, frozen, "litert")
    np.testing.assert_array_equal(answers(content, inputs), simulated)
    np.testing.assert_array_equal(simulated[..., :3], inputs)
