"""ONNX files of transformers and gated nets: their answers, each of their groups, and what is refused."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmini.compress.quantize import simulate
from jaxmini.compress.quantize.functions import Apply
from jaxmini.compress.quantize.plan import Group
from jaxmini.compress.quantize.products import Product
from jaxmini.evaluate.onnx_runtime import onnx_integers, onnx_predict
from jaxmini.export import integer_form, onnx, predict
from jaxmini.export.distance import compare
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import FUNCTIONS, IMAGES, artifact_of, name_of

# Steps between the logits of a file and those simulated: a step of one group travels.
MOST = {"Attention": 3, "vit_tiny": 3}


def rounds_otherwise(group: Group) -> bool:
    """Whether .tflite kernels, which the simulation follows, do not round to the nearest there.

    Products of two activations are rounded twice; hard-swish and leaky-relu are computed in fixed point.
    """
    label = group.kind.label if isinstance(group, Apply) else ""
    return isinstance(group, Product) or label in ("hard_swish", "leaky_relu")


@pytest.mark.parametrize("net", FUNCTIONS, ids=name_of)
def test_a_float_file_answers_as_the_model(net: Callable, tmp_path: Path):
    artifact = artifact_of(net(), integer=False)
    path = onnx(artifact, tmp_path / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    for optimized in (True, False):
        answers = onnx_predict(path, optimized=optimized)(IMAGES)
        assert np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("net", FUNCTIONS, ids=name_of)
def test_an_integer_file_is_near_the_simulation(net: Callable, tmp_path: Path):
    artifact = artifact_of(net(), integer=True)
    path = onnx(artifact, tmp_path / "net.onnx", variant="int8").path
    plan, frozen = integer_form(artifact, len(IMAGES))
    integers = (IMAGES.astype(np.int16) - 128).astype(np.int8)
    expected = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(integers))
    for optimized in (True, False):
        found = compare(expected, onnx_integers(path, optimized=optimized)(IMAGES))
        assert found.largest <= MOST.get(name_of(net), 1)
        assert found.agreement >= 0.95


@pytest.mark.parametrize("net", FUNCTIONS, ids=name_of)
def test_every_group_computes_what_is_simulated(net: Callable):
    plan, frozen = integer_form(artifact_of(net(), integer=True), 8)
    for group, steps in deviations(plan, frozen, IMAGES[:8]):
        assert steps.max() <= 1, group.name
        if not rounds_otherwise(group):
            assert not steps.any(), group.name
