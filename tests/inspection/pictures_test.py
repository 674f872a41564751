"""The pictures of a run's artifact: its test split, or random ones and the reason."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini import data, record
from jaxmini.data import Normalization
from jaxmini.export import Artifact
from jaxmini.inspection.pictures import RECIPE, pictures_of
from jaxmini.model import from_linen
from jaxmini.run import sealed


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(10)(images.reshape(images.shape[0], 64))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of one stage."""
    stage = {"data": record.describe(data.digits())}
    sealed.write(tmp_path / RECIPE, {"recipe": {"stages": {"net": stage}}})
    return tmp_path


@pytest.fixture
def artifact() -> Artifact:
    model, dataset = from_linen(Linear()), data.digits().load()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    origin = {"stage": "net", "data": f"{dataset.name} {dataset.fingerprint()}"}
    return Artifact(model, variables, dataset.labels, Normalization(0.0, 1.0), (8, 8, 1), origin)


def test_a_run_s_artifact_is_answered_on_its_test_split(run: Path, artifact: Artifact):
    found = pictures_of(artifact, run / "stages/net/artifact", 30)
    test = data.digits().load().test
    np.testing.assert_array_equal(found.image, test.image[:30])
    np.testing.assert_array_equal(found.label, test.label[:30])
    assert found.origin == "the test split of digits"


def random(artifact: Artifact, folder: Path) -> str:
    found = pictures_of(artifact, folder, 5)
    assert (found.image.shape, found.image.dtype, found.label) == ((5, 8, 8, 1), np.uint8, None)
    assert found.origin.startswith("random pictures (no test split: ")
    return found.origin


def test_without_the_data_they_are_random_and_say_why(run: Path, artifact: Artifact):
    folder = run / "stages/net/artifact"
    assert "is not the folder of a run" in random(artifact, Path("/a/b/c"))
    other = dataclasses.replace(artifact, provenance={**artifact.provenance, "data": "digits 0"})
    assert "it was trained on digits 0" in random(other, folder)
    other = dataclasses.replace(artifact, provenance={**artifact.provenance, "stage": "nett"})
    assert "has no stage 'nett'" in random(other, folder)
    gone = {"call": "a_module_that_is_gone:source", "fields": {}}
    sealed.write(run / RECIPE, {"recipe": {"stages": {"net": {"data": gone}}}})
    assert "there is no module 'a_module_that_is_gone'" in random(artifact, folder)
    (run / RECIPE).write_text("{}")
    assert "was changed since it was written" in random(artifact, folder)


def test_a_number_below_one_is_refused(artifact: Artifact):
    with pytest.raises(ValueError, match="the number of images is 0"):
        pictures_of(artifact, Path(), 0)
