"""Nets for post-training methods: rectifiers that scale, and one trained on digits in a few seconds."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmini import data
from jaxmini.compress.quantize import floats_of
from jaxmini.model import Model, Variables, from_linen
from jaxmini.models.mobilenet import Conv, Inverted, MobileNet

MOBILE = MobileNet(
    (
        Conv(8, stride=2),
        Inverted(8, expand=2),
        Inverted(16, expand=2, stride=2),
    ),
    10,
)


class Mixed(nn.Module):
    """Grouped and strided convolutions, biases without BatchNorm, a factor, pools, a pad, a kept mean."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(6, (3, 3), name="first")(x))
        x = nn.relu(nn.Conv(9, (3, 3), feature_group_count=3, name="grouped")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = 0.5 - nn.Conv(4, (1, 1), use_bias=False, name="linear")(x)
        x = nn.Conv(4, (1, 1), use_bias=False, name="bare")(x)
        x = nn.BatchNorm(use_running_average=not train, use_scale=False)(x)
        x = jnp.pad(nn.relu(x), ((0, 0), (1, 1), (1, 0), (0, 0)))
        x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=4, name="multiplied")(x))
        with jax.numpy_dtype_promotion("standard"):  # linen divides by an integer
            x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(5, (1, 1), name="late")(x.mean((1, 2), keepdims=True)))
        return nn.Dense(3, name="head")(x[:, 0, 0])


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Normalised pictures and labels for training, and for tests."""
    loaded = data.digits().load()
    train, test = loaded.train, loaded.test
    images = [(np.asarray(split.image, np.float32) / 255 - 0.3) / 0.37 for split in (train, test)]
    return images[0], train.label, images[1], test.label


@functools.lru_cache(maxsize=1)
def trained() -> tuple[Model, Variables]:
    """The mobile net after 150 steps on digits."""
    model, (images, labels, _, _) = from_linen(MOBILE), digits()
    optimizer = optax.adam(5e-3)

    def loss(params, stats, x, y):
        logits, updates = model.apply({"params": params, **stats}, x, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updates

    @jax.jit
    def step(params, stats, state, x, y):
        grads, stats = jax.grad(loss, has_aux=True)(params, stats, x, y)
        change, state = optimizer.update(grads, state)
        return optax.apply_updates(params, change), stats, state

    rng = np.random.default_rng(0)
    stats = dict(jax.jit(model.init)(jax.random.key(0), images[:2]))
    params = stats.pop("params")
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam
        state = optimizer.init(params)
        for _ in range(150):
            chosen = rng.integers(0, len(images), 64)
            params, stats, state = step(params, stats, state, images[chosen], labels[chosen])
    return model, {"params": params, **stats}


def uneven(variables: Variables, seed: int = 0) -> Variables:
    """The same function, channels of whose kernels differ in size by up to a thousand.

    What a long training with weight decay leaves: BatchNorm's gamma and beta times a factor, the kernel
    that reads them divided by it.
    """
    rng = np.random.default_rng(seed)
    params = jax.tree.map(np.asarray, variables["params"])
    blocks = [block for name, block in params.items() if "block" in name]
    for block in blocks:
        for name, following in (("expand", "depthwise"), ("depthwise", "project")):
            bn, kernel = block[name]["bn"], block[following]["conv"]["kernel"]
            factor = (10 ** rng.uniform(-1.5, 1.5, bn["scale"].shape)).astype(np.float32)
            block[name]["bn"] = {key: leaf * factor for key, leaf in bn.items()}
            axis = 3 if following == "depthwise" else 2
            shape = [-1 if i == axis else 1 for i in range(4)]
            block[following]["conv"]["kernel"] = kernel / factor.reshape(shape)
    return {**variables, "params": params}


def answers(model: Model, variables: Variables, x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(model.apply)(variables, x)[0])


def accuracy(model: Model, variables: Variables) -> float:
    _, _, images, labels = digits()
    return float(np.mean(answers(model, variables, images).argmax(-1) == labels))


def floats(variables: Variables) -> Variables:
    return floats_of(variables)


def batches(count: int = 128, size: int = 64) -> list[np.ndarray]:
    images = digits()[0][:count]
    return [images[i : i + size] for i in range(0, count, size)]
