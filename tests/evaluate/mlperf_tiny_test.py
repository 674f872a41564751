"""The nets of MLPerf Tiny all the way: trained numbers, an int8 file, TFLite-Micro, an array in C++."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini import models
from jaxmini.compress.quantize import Grid, calibrate, quantize
from jaxmini.data import Normalization
from jaxmini.evaluate.deviation import Deviation, deviation
from jaxmini.evaluate.interpreter import Interpreter, Kernels
from jaxmini.export import Artifact, micro, tflite
from jaxmini.model import Variables, from_linen

pytest.importorskip("tflite_micro", reason="needs jaxmini[micro]")

NORMALIZATION = Normalization(0.5, 0.25)
GRID = Grid(NORMALIZATION.scale, NORMALIZATION.zero_point)
CLASSIFIERS = {
    "resnet8": (models.mlperf_resnet8(), (32, 32, 3), 10),
    "mobilenet_v1": (models.mlperf_mobilenet_v1(), (96, 96, 3), 2),
    "ds_cnn": (models.mlperf_ds_cnn(), (49, 10, 1), 12),
    "autoencoder": (models.mlperf_autoencoder(), (1, 1, 640), 0),
}
# The operators that TFLite-Micro rounds as LiteRT's reference kernels do. The dense layer rounds twice.
EQUAL = {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "SLICE"}


def trained(variables: Variables, rng: np.random.Generator) -> Variables:
    """Statistics, gammas of both signs and biases as training leaves them, or worse."""
    draws = {
        "var": lambda leaf: rng.uniform(0.5, 2.0, leaf.shape),
        "scale": lambda leaf: rng.uniform(0.5, 1.5, leaf.shape) * rng.choice([-1, 1], leaf.shape),
        "bias": lambda leaf: rng.normal(0, 0.2, leaf.shape),
        "mean": lambda leaf: rng.normal(0, 0.2, leaf.shape),
    }

    def drawn(path: tuple, leaf: jax.Array) -> np.ndarray:
        draw = draws.get(path[-1].key, np.asarray)
        return np.asarray(draw(leaf), np.float32)

    moved = {name: variables[name] for name in ("params", "batch_stats")}
    return {**variables, **jax.tree_util.tree_map_with_path(drawn, moved)}


def made(net: nn.Module, shape: tuple[int, int, int], classes: int) -> Artifact:
    rng = np.random.default_rng(1)
    model = quantize(from_linen(net), input_grid=GRID)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    pictures = rng.integers(0, 256, (8, *shape), dtype=np.uint8)
    variables = calibrate(model, trained(variables, rng), [NORMALIZATION(jnp.asarray(pictures))])
    labels = tuple(f"class {number}" for number in range(classes))
    return Artifact(model, variables, labels, NORMALIZATION, shape)


def compared(path: Path, count: int) -> dict[str, Deviation]:
    """TFLite-Micro beside the reference kernels on random inputs, by kind of operator, and of the answers."""
    ours, theirs = (
        Interpreter(path, kernels=kernels, keep_all=True)
        for kernels in (Kernels.MICRO, Kernels.REFERENCE)
    )
    rng, found = np.random.default_rng(2), {}
    for _ in range(count):
        inputs = rng.integers(-128, 128, ours.input.shape).astype(np.int8)
        answers = theirs.run(inputs), ours.run(inputs)
        found["answers"] = found.get("answers", Deviation()) + deviation(*answers)
        for op in ours.file.ops:
            apart = deviation(theirs.tensor(op.outputs[0]), ours.tensor(op.outputs[0]))
            found[op.name] = found.get(op.name, Deviation()) + apart
    return found


@pytest.mark.parametrize(
    "name", ["resnet8", *(pytest.param(n, marks=pytest.mark.slow) for n in list(CLASSIFIERS)[1:])]
)
def test_a_net_goes_all_the_way(name: str, tmp_path: Path):
    path = tmp_path / f"{name}.tflite"
    tflite(made(*CLASSIFIERS[name]), path, variant="int8", backend="litert")
    found = compared(path, 10)
    written = micro(path, tmp_path)
    print(f"\n{name}: {written.bytes:,} bytes, {written.arena}")
    for kind, apart in found.items():
        print(f"  {kind}: {apart.differing:,} of {apart.compared:,}, at most {apart.largest}")
    convolutional = {kind: apart for kind, apart in found.items() if kind in EQUAL}
    assert len(convolutional) == 0 if name == "autoencoder" else len(convolutional) >= 3
    assert not any(apart.differing for apart in convolutional.values())
    # Ten dense layers after one another move more than one last one does.
    assert found["answers"].largest <= (3 if name == "autoencoder" else 1)
    assert f"kArenaSize = {written.arena.smallest};" in written.files[0].read_text()
    assert written.arena.activations <= 96 * 1024
