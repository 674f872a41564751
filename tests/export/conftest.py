"""Small networks as artifacts, and the files made of them: one conversion serves every test of a session."""

import functools
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import Grid, calibrate, int8, per_channel, quantize
from jaxmini.data import Normalization
from jaxmini.export import Artifact, Exported, Layout, tflite
from jaxmini.model import Model, from_linen

NORMALIZATION = Normalization(0.4, 0.3)
SHAPE = (8, 8, 3)
LABELS = tuple("abcdefghij")
SCHEME = int8()


class Block(nn.Module):
    """What integer files are made of: convolutions of every kind, a residual sum, pools, a mean, a dense.

    Attributes:
        silent: the BatchNorm before the sum has gamma 0, as zero-initialised residual blocks have.
        branches: end in a concatenation of parallel branches, a plain product and an average pool.
    """

    silent: bool = False
    branches: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        gamma = nn.initializers.zeros if self.silent else nn.initializers.ones
        x = nn.relu(norm()(nn.Conv(8, (3, 3), use_bias=False)(x)))
        y = nn.relu6(norm()(nn.Conv(8, (3, 3), feature_group_count=8, use_bias=False)(x)))
        y = norm(scale_init=gamma)(nn.Conv(8, (1, 1), use_bias=False)(y))
        x = nn.max_pool(nn.relu(x + y), (2, 2), (2, 2))
        if self.branches:
            x = jnp.concatenate(
                [nn.relu(nn.Conv(4, (1, 1))(x)), nn.relu(nn.Conv(4, (1, 1))(x))], -1
            )
            x = nn.pooling.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4.0
        return nn.Dense(len(LABELS))(x.mean((1, 2)))


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)


def make(model: Model, images: np.ndarray, labels: tuple[str, ...] = LABELS) -> Artifact:
    """An artifact with biases and statistics that are not their initial values."""
    rng = np.random.default_rng(1)

    def moved(path: tuple, leaf: jax.Array) -> np.ndarray:
        moves = jax.tree_util.keystr(path).endswith(("['bias']", "['mean']"))
        return np.asarray(leaf) + moves * rng.normal(0, 0.2, leaf.shape).astype(np.float32)

    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables = jax.tree_util.tree_map_with_path(moved, variables)
    if "quant" in variables:
        variables = calibrate(model, variables, [NORMALIZATION(jnp.asarray(images))])
    return Artifact(model, variables, labels, NORMALIZATION, SHAPE, {"made": "by a test"})


@pytest.fixture(scope="session")
def float_artifact(images: np.ndarray) -> Artifact:
    return make(from_linen(Block()), images)


@pytest.fixture(scope="session")
def integer_artifact(images: np.ndarray) -> Artifact:
    return make(quantized(Block(silent=True)), images)


@pytest.fixture(scope="session")
def branched_artifact(images: np.ndarray) -> Artifact:
    return make(quantized(Block(branches=True)), images)


@pytest.fixture(scope="session")
def narrow_artifact(images: np.ndarray) -> Artifact:
    """With kernels of four bits."""
    return make(quantized(Block(), int8(kernel=per_channel(bits=4))), images)


@pytest.fixture(scope="session")
def narrow_files(
    tmp_path_factory: pytest.TempPathFactory, narrow_artifact: Artifact
) -> Callable[[bool], Path]:
    """Whether as int4 -> the file of the network of four-bit kernels; each is converted once."""
    folder = tmp_path_factory.mktemp("narrow")

    @functools.cache
    def written(int4: bool) -> Path:
        path, layout = folder / f"{int4}.tflite", Layout(int4=int4)
        return tflite(narrow_artifact, path, variant="int8", backend="litert", layout=layout).path

    return written


# All that a layout can have at once.
EVERYTHING = Layout(
    input="uint8", output="float32", batch=3, int4=True, embedding="Dense_0", task_metadata=True
)


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory, narrow_artifact: Artifact) -> Path:
    path = tmp_path_factory.mktemp("layout") / "everything.tflite"
    return tflite(narrow_artifact, path, variant="int8", backend="litert", layout=EVERYTHING).path


@pytest.fixture(scope="session")
def convert(
    tmp_path_factory: pytest.TempPathFactory,
    float_artifact: Artifact,
    integer_artifact: Artifact,
) -> Callable[[str, str], Exported]:
    """(variant, backend) -> the exported file; each is converted once."""
    folder = tmp_path_factory.mktemp("files")

    @functools.cache
    def exported(variant: str, backend: str) -> Exported:
        artifact = integer_artifact if variant == "int8" else float_artifact
        path = folder / f"{variant}.{backend}.tflite"
        return tflite(artifact, path, variant=variant, backend=backend)

    return exported


@pytest.fixture(scope="session")
def integer_bytes(convert: Callable[[str, str], Exported]) -> bytes:
    return Path(convert("int8", "litert").path).read_bytes()


def quantized(module: nn.Module, scheme: int8 = SCHEME) -> Model:
    """The module's model on the grid of its pixels."""
    grid = Grid(NORMALIZATION.scale, NORMALIZATION.zero_point)
    return quantize(from_linen(module), scheme, input_grid=grid)
