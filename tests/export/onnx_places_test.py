"""ONNX places: numbers at known places are those of the model, and none is rounded on its way."""

from pathlib import Path

import numpy as np

from jaxmini.evaluate.onnx_runtime import onnx_predict
from jaxmini.export import integer_form, onnx, predict
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import IMAGES, Places, artifact_of


def test_numbers_at_known_places(tmp_path: Path):
    artifact = artifact_of(Places(), integer=False)
    path = onnx(artifact, tmp_path / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    for answers in (onnx_predict(path)(IMAGES), onnx_predict(path, optimized=False)(IMAGES)):
        assert np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max()
    plan, frozen = integer_form(artifact_of(Places(), integer=True), 8)
    for group, steps in deviations(plan, frozen, IMAGES[:8]):
        assert steps.max() <= 0, group.name
