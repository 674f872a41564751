"""Small nets that hold what real ones do, with variables far from their initial values."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Residual(nn.Module):
    """Convolution, depthwise, pointwise, residual addition, max-pool, mean, dense."""

    @nn.compact
    def __call__(self, x, *, train=False):
        def norm():
            return nn.BatchNorm(use_running_average=not train)

        x = nn.relu(norm()(nn.Conv(8, (3, 3), 2, use_bias=False, name="stem")(x)))
        y = nn.Conv(8, (3, 3), feature_group_count=8, use_bias=False, name="depthwise")(x)
        y = nn.relu6(norm()(y))
        x = nn.relu(x + norm()(nn.Conv(8, (1, 1), use_bias=False, name="pointwise")(y)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(5, name="head")(x.mean((1, 2)))


class Bottlenecks(nn.Module):
    """Inverted bottlenecks: every second convolution is depthwise, with strides and 5x5 windows."""

    @nn.compact
    def __call__(self, x):
        def conv(x, features, window=1, stride=1, groups=1):
            conv = nn.Conv(
                features, (window,) * 2, stride, feature_group_count=groups, use_bias=False
            )
            return nn.BatchNorm(use_running_average=True)(conv(x))

        x = nn.relu6(conv(x, 8, 3, 2))
        for window, stride in ((3, 1), (5, 2), (3, 1), (5, 1)):
            y = nn.relu6(conv(x, 24))
            y = conv(nn.relu6(conv(y, 24, window, stride, groups=24)), 8)
            x = x + y if stride == 1 else y
        return nn.Dense(6, name="head")(nn.relu6(conv(x, 32)).mean((1, 2)))


class Branches(nn.Module):
    """What people write by hand: normalisation inside, pool before relu, splits, pads, concatenation."""

    @nn.compact
    def __call__(self, x):
        x = (x - 0.1) / 0.5
        x = nn.relu(nn.max_pool(nn.Conv(6, (3, 3), name="first")(x), (2, 2), (2, 2)))
        x = jnp.clip(nn.Conv(8, (3, 3), padding="VALID", name="second")(x), 0, 6)
        a, b = jnp.split(x, 2, -1)
        x = jnp.concatenate(
            [a * b - b, jnp.pad(a[:, ::2, ::2], ((0, 0), (1, 1), (2, 0), (0, 0)))], -1
        )
        with jax.numpy_dtype_promotion("standard"):  # linen divides by an integer
            x = nn.avg_pool(nn.relu(x), (3, 3), (2, 2), "SAME")
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(12, name="hidden")(x))
        x = nn.BatchNorm(use_running_average=True, name="norm")(x + nn.Dense(12, name="side")(x))
        return 2.0 - nn.Dense(4, name="head")(x)


class PreActivation(nn.Module):
    """BatchNorm before its convolution, a position table, a head on a mean with kept axes, remat."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(6, (3, 3), 2, name="stem")(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = x + nn.remat(nn.Conv)(6, (3, 3), name="conv")(y)
        shape = (1, *x.shape[1:])
        x = x + self.param("position", nn.initializers.normal(0.5), shape)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.relu(nn.Conv(7, (1, 1), name="late")(x.mean((1, 2), keepdims=True)))
        return nn.Dense(3, name="head")(x[:, 0, 0])


class Shared(nn.Module):
    """One convolution used twice."""

    @nn.compact
    def __call__(self, x):
        conv = nn.Conv(3, (3, 3), name="conv")
        return nn.Dense(3, name="head")(nn.relu(conv(nn.relu(conv(x)))).mean((1, 2)))


def pictures(batch=4, size=12, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, size, size, 3))


def disturbed(variables, seed=0):
    """Variables as after training: statistics, biases and factors of BatchNorm of both signs, one 0."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "var":
            leaf = rng.uniform(0.5, 2.0, leaf.shape)
        elif name in ("mean", "bias"):
            leaf = 0.3 * rng.normal(size=leaf.shape)
        elif name == "scale":
            leaf = rng.uniform(0.5, 1.5, leaf.shape) * rng.choice((-1, 1, 1), leaf.shape)
            leaf[0] = 0
        return jnp.asarray(leaf, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)


def start(model, inputs, seed=0):
    return disturbed(jax.jit(model.init)(jax.random.key(seed), inputs), seed)


class Attention(nn.Module):
    """Patches, a class token, masked attention of linen and by hand, norms of every kind, gelu."""

    classes: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(12, (4, 4), 4, name="embed")(x).reshape(x.shape[0], -1, 12)
        token = self.param("token", nn.initializers.normal(1.0), (1, 1, 12))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 12)), x], 1)
        y = nn.LayerNorm(name="norm0")(x)
        mask = nn.make_causal_mask(jnp.ones(y.shape[:2]))
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(y, mask=mask)
        y = nn.RMSNorm(name="norm1")(x)
        query, key, value = jnp.split(nn.Dense(24, name="qkv")(y), 3, -1)
        scores = jnp.einsum("bqd,bkd->bqk", query, key) / jnp.sqrt(8.0)
        seen = jnp.tril(jnp.ones(scores.shape[1:], bool))
        x = x + nn.Dense(12, name="out")(nn.softmax(jnp.where(seen, scores, -1e9)) @ value)
        y = nn.gelu(nn.Dense(16, name="mlp0")(nn.GroupNorm(3, name="norm2")(x)))
        return nn.Dense(self.classes, name="head")((x + nn.Dense(12, name="mlp1")(y))[:, 0])


class Gates(nn.Module):
    """A MobileNetV3 block: hard-swish, squeeze-and-excite; then a gate of sigmoid and silu."""

    classes: int = 5

    @nn.compact
    def __call__(self, x, *, train=False):
        def conv(x, features, window=1, groups=1, stride=1, name=None):
            conv = nn.Conv(features, (window,) * 2, stride, feature_group_count=groups, name=name)
            return nn.BatchNorm(use_running_average=not train)(conv(x))

        x = nn.hard_swish(conv(x, 8, 3, stride=2, name="stem"))
        y = nn.hard_swish(conv(nn.hard_swish(conv(x, 16)), 16, 3, 16, name="depthwise"))
        gate = nn.relu(nn.Conv(4, (1, 1), name="squeeze")(y.mean((1, 2), keepdims=True)))
        y = y * nn.hard_sigmoid(nn.Conv(16, (1, 1), name="excite")(gate))
        x = x + conv(y, 8, name="project")
        gate = nn.sigmoid(nn.Dense(8, name="gate")(nn.silu(x.mean((1, 2)))))
        return nn.Dense(self.classes, name="head")((x * gate[:, None, None]).mean((1, 2)))


class Functions(nn.Module):
    """Every function of one tensor that an integer file has an operator for."""

    classes: int = 5

    @nn.compact
    def __call__(self, x):
        functions = {
            "softmax": nn.softmax,
            "log_softmax": nn.log_softmax,
            "sigmoid": nn.sigmoid,
            "tanh": jnp.tanh,
            "gelu": nn.gelu,
            "hard_swish": nn.hard_swish,
            "leaky_relu": nn.leaky_relu,
            "leaky_relu_3": lambda y: nn.leaky_relu(y, 0.3),
        }
        parts = [
            nn.Dense(self.classes, name=f"out_{name}")(f(nn.Dense(12, name=name)(x)))
            for name, f in functions.items()
        ]
        return sum(parts[1:], parts[0]).mean((1, 2))
