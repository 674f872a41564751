"""Digits nets as files in the folder of a run, of integers and of floats; LiteRT.js, if it is to be had."""

import hashlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini import data, export, models, record
from jaxmini.compress import quantize
from jaxmini.demo import runtime
from jaxmini.export.layout import USUAL, Layout
from jaxmini.model import from_linen
from jaxmini.run import process, sealed
from jaxmini.run.report import storage
from jaxmini.run.report.content import FileResult, Link, Report, StageResult
from tests.export.conftest import SHAPE, make, quantized

ACCURACY = 0.8125


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: what it was made from, two files, a report of the first."""
    run = tmp_path_factory.mktemp("runs") / "tried"
    (run / "exports").mkdir(parents=True)
    stage = {"data": record.describe(data.digits())}
    sealed.write(run / "recipe.json", {"recipe": {"stages": {"net": stage}}})
    for variant, artifact in (("int8", _artifact(True)), ("float32", _artifact(False))):
        path = run / "exports" / f"{variant}.tflite"
        export.tflite(artifact, path, variant=variant, backend="litert")
    content = (run / "exports/int8.tflite").read_bytes()
    file = FileResult("int8.tflite", "int8", "litert", len(content), "net", accuracy=ACCURACY)
    link = Link(file.name, hashlib.sha256(content).hexdigest()[:16])
    stages = (StageResult("net", "supervised", "digits"),)
    storage.write(Report("tried", stages=stages, files=(file,), provenance=(link,)), run)
    return run


@pytest.fixture(scope="session")
def integer_path(run: Path) -> Path:
    return run / "exports/int8.tflite"


@pytest.fixture(scope="session")
def float_path(run: Path) -> Path:
    return run / "exports/float32.tflite"


class Colours(nn.Module):
    """Two layers, of 13 classes: more than a page shows."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        found = nn.relu(nn.Conv(4, (3, 3), strides=(2, 2))(images))
        return nn.Dense(13)(found.reshape(found.shape[0], -1))


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two files of one net of RGB pictures: of int8 pixels, and of uint8."""
    folder = tmp_path_factory.mktemp("colours")
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)
    artifact = make(quantized(Colours()), images, tuple("abcdefghijklm"))

    def written(name: str, layout: Layout) -> Path:
        path = folder / f"{name}.tflite"
        return export.tflite(artifact, path, variant="int8", backend="litert", layout=layout).path

    return {
        "colours": written("colours", USUAL),
        "unsigned": written("unsigned", Layout(input="uint8")),
    }


def _artifact(is_quantized: bool) -> export.Artifact:
    """A net of random weights, its ranges those of digits."""
    digits = data.digits().load()
    normalization = data.measure(digits.train)
    model = from_linen(models.small_resnet(10, widths=(8,)))
    images = normalization(jnp.asarray(digits.train.image[:64]))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    if is_quantized:
        grid = quantize.Grid(normalization.scale, normalization.zero_point)
        model = quantize.quantize(model, input_grid=grid)
        variables = quantize.calibrate(model, variables, [images])
    origin = {"stage": "net", "data": f"{digits.name} {digits.fingerprint()}"}
    return export.Artifact(
        model, variables, digits.labels, normalization, digits.train.shape, origin
    )


@pytest.fixture(scope="session")
def litert() -> dict[str, bytes]:
    """All builds of LiteRT.js, from the user's cache or through npm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPM_CONFIG_FETCH_RETRIES", "0")
        try:
            return runtime.files(None, process.cache_folder() / "litertjs", runtime.BUILDS)
        except OSError as error:
            pytest.skip(f"no LiteRT.js: {error}")
