"""Networks whose ONNX files are looked at, with variables as after training."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize import calibrate, freeze, make_plan, quantize
from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.plan import Plan
from jaxmini.export import Artifact
from jaxmini.model import Model, Variables, from_linen
from jaxmini.models.vit import vit_tiny
from tests.compress.quantize.quantize_nets import (
    Attention,
    Bottlenecks,
    Branches,
    Functions,
    Gates,
    PreActivation,
    Residual,
    Shared,
    disturbed,
)
from tests.export.conftest import NORMALIZATION, Block, quantized

# The average of four pixels may be a tie, which QuantizeLinear rounds to even and .tflite kernels away from
# zero.
AVERAGING = functools.partial(Block, branches=True)


class Shapes(nn.Module):
    """Whatever moves numbers: transposes, reversals, heads, repetitions, a constant that is joined."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (3, 3), padding=((1, 0), (2, 1)), kernel_dilation=(1, 2))(x)
        x = nn.relu(nn.Conv(8, (3, 2), strides=(2, 1), feature_group_count=4)(x))
        x = jnp.swapaxes(x, 1, 2)[:, ::-1, 1:, :]
        x = jax.lax.pad(x, 0.0, ((0, 0, 0), (1, 2, 0), (0, -1, 0), (0, 0, 0)))
        x = nn.relu6(nn.Conv(6, (2, 2))(x))
        x = x.reshape(x.shape[0], -1, 6)
        token = self.param("token", nn.initializers.normal(1.0), (1, 1, 6))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 6)), x], 1)
        a, b = jnp.split(nn.Dense(8)(x), (3,), -1)
        x = nn.relu(nn.DenseGeneral((2, 3))(jnp.concatenate([b, a], -1)))
        x = nn.DenseGeneral(5, axis=(-2, -1))(x).transpose(0, 2, 1)
        mean = jnp.broadcast_to(x.mean(-1, keepdims=True), x.shape)
        x = nn.relu(x - mean) * self.param("gain", nn.initializers.normal(1.0), (1, *x.shape[1:]))
        return nn.Dense(4)(x.reshape(x.shape[0], -1)[:, ::3])


class Extremes(nn.Module):
    """The larger and the smaller of two tensors, those over pixels, borders of other than zeros."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(4, (3, 3))(jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=0.5))
        y = jnp.pad(nn.Conv(4, (3, 3))(x), ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=-1.0)
        x = jnp.pad(x, ((0, 0), (0, 1), (2, 0), (0, 0)))
        x = jnp.maximum(x, jax.lax.stop_gradient(y)) + jnp.minimum(y, nn.Conv(4, (1, 1))(x))
        return nn.Dense(4)(jnp.concatenate([x.max((1, 2)), x.min((1, 2))], -1))


SHAPE = (12, 12, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)


class Turned(nn.Module):
    """One tensor read as it is and transposed, channels first and last; channels gated by their means."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        y = x.swapaxes(1, 2)
        z = nn.Conv(4, (3, 3))(y) + nn.Conv(4, (3, 3))(x)
        gate = nn.relu6(nn.Dense(4)(z.mean((1, 2))))[:, None, None, :]
        z = z * jnp.broadcast_to(gate, z.shape)
        rows = [nn.Dense(6)(part.reshape(part.shape[0], -1)) for part in (x, y, z)]
        return nn.Dense(4)(nn.relu(rows[0] + rows[1] - rows[2]))


class Places(nn.Module):
    """Numbers at known places: permutations, parts, repetitions, choices, stacks, of one axis and of two."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(4, (3, 3), 2)(x)
        mask = np.zeros((1, *x.shape[1:3], 1), bool)
        mask[:, 2:, 1:4] = True
        x = jnp.where(mask, x, 0.25)
        x = jnp.take(x.swapaxes(1, 2), np.array([[2, 0], [1, 3]]), axis=-1)
        x = x.reshape(*x.shape[:3], 4)
        x = jnp.where(mask, x, x[:, ::-1])
        x = jnp.tile(jax.lax.dynamic_slice_in_dim(x, 5, 3, 1), (1, 2, 1, 1))
        level = np.linspace(-1, 1, 4, dtype=np.float32)
        level = np.broadcast_to(level, (1, *x.shape[1:]))
        rows = [nn.relu(nn.Conv(4, (1, 1))(x)), x, jnp.broadcast_to(level, x.shape)]
        x = jnp.stack(rows, 2).max(2)
        corners = x[:, np.array([0, 1, 5]), np.array([2, 2, 0])]
        parts = jnp.concatenate([corners.reshape(x.shape[0], -1), x.mean((1, 2))], -1)
        return nn.Dense(4)(parts)


class Products(nn.Module):
    """Products of two activations: over one axis and two, with axes on either side, in other orders."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, y = (nn.Conv(6, (4, 4), 6)(x).reshape(x.shape[0], 4, 2, 3) for _ in range(2))
        products = [
            jnp.einsum("bqhd,bkhd->bqk", x, y),
            jnp.einsum("bqhd,bqke->bhdke", x, y),
            jnp.einsum("bdhq,behq->bhde", x, y.swapaxes(1, 2).reshape(y.shape)),
            jnp.einsum("bqhd,bq->bhd", x, y.max((2, 3))),
        ]
        return sum(nn.Dense(4)(product.reshape(x.shape[0], -1)) for product in products)


class Text(nn.Module):
    """A transformer on the numbers of tokens: a table, places, causal attention, gelu, a mean."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(11, 8, name="tokens")(tokens)
        x = x + self.param("places", nn.initializers.normal(0.5), (1, tokens.shape[1], 8))
        y = nn.LayerNorm(name="norm0")(x)
        mask = nn.make_causal_mask(jnp.ones(y.shape[:2]))
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(y, mask=mask)
        y = nn.gelu(nn.Dense(16, name="mlp0")(nn.RMSNorm(name="norm1")(x)))
        x = x + nn.Dense(8, name="mlp1")(y)
        return nn.Dense(4, name="head")(x.mean(1))


TOKENS = np.random.default_rng(1).integers(0, 11, (24, 6), np.int32)

NETS = [Residual, Bottlenecks, Branches, PreActivation, Shared, Shapes, Turned, Extremes, Block]
# What has functions besides rectifiers; the files differ from the simulation where kernels round otherwise.
FUNCTIONS = [
    Attention,
    Functions,
    Gates,
    functools.partial(vit_tiny, 5, patch=4, layers=1),
]


def name_of(net: type) -> str:
    return getattr(net, "__name__", getattr(getattr(net, "func", None), "__name__", "net"))


@functools.cache
def text() -> tuple[Model, Variables, Plan, Frozen]:
    """The float model on tokens, its variables, the plan of its quantized twin, and the frozen numbers."""
    model = from_linen(Text())
    variables = disturbed(jax.jit(model.init)(jax.random.key(0), TOKENS[:1]))
    twin = quantize(model)
    calibrated = calibrate(twin, variables, [TOKENS])
    plan = make_plan(twin, calibrated, TOKENS)
    return model, variables, plan, freeze(plan, calibrated)


@functools.cache
def artifact_of(module: nn.Module, *, integer: bool) -> Artifact:
    """The network with variables as after training, of which nothing is compiled."""
    model, rng = from_linen(module), np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        spread = 1 if path[-1].key == "token" else leaf.size**-0.5 * leaf.shape[-1] ** 0.5
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables = disturbed(jax.tree_util.tree_map_with_path(draw, shapes))
    logits, _ = jax.eval_shape(model.apply, variables, jnp.zeros((1, *SHAPE)))
    labels = tuple(map(str, range(logits.shape[1])))
    if integer:
        model = quantized(module)
        variables = calibrate(model, variables, [NORMALIZATION(jnp.asarray(IMAGES))])
    return Artifact(model, variables, labels, NORMALIZATION, SHAPE, {"made": "by a test"})
