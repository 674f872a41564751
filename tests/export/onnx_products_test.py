"""ONNX products: of two activations over any axes, in float and within a step of .tflite's roundings."""

from pathlib import Path

import numpy as np

from jaxmini.compress.quantize.products import Product
from jaxmini.evaluate.onnx_runtime import onnx_predict
from jaxmini.export import integer_form, onnx, predict
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import IMAGES, Products, artifact_of


def test_products_over_any_axes(tmp_path: Path):
    artifact = artifact_of(Products(), integer=False)
    path = onnx(artifact, tmp_path / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    for answers in (onnx_predict(path)(IMAGES), onnx_predict(path, optimized=False)(IMAGES)):
        assert np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max()
    plan, frozen = integer_form(artifact_of(Products(), integer=True), 8)
    for group, steps in deviations(plan, frozen, IMAGES[:8]):
        assert steps.max() <= isinstance(group, Product), group.name
