"""Kernels of a file that computes in float: which they are, and that each is in its place."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini.compress import quantize as q
from jaxmini.export import (
    Layout,
    ParityError,
    flatbuffer,
    float_kernels,
    weights_only_file,
    weights_only_form,
)
from jaxmini.model import from_linen
from tests.export.conftest import LABELS, make
from tests.export.tampering import edited


class Chain(nn.Module):
    """Layers of one shape one after the other, and beside one another."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = x.mean((1, 2))
        x = nn.tanh(nn.Dense(6)(x))
        for _ in range(2):
            x = nn.tanh(nn.Dense(6)(x))
        return nn.Dense(len(LABELS))(nn.Dense(6)(x) * nn.tanh(nn.Dense(6)(x)))


def test_kernels_in_each_other_s_place_are_found(images: np.ndarray):
    artifact = make(q.quantize(from_linen(Chain()), q.weights_only()), images)
    form = weights_only_form(artifact)
    content, _ = weights_only_file(*form, "litert", Layout(), artifact.normalization)

    def swapped(model, graph):
        layers = [
            op for op in graph.operators if flatbuffer.op_name(model, op) == "FULLY_CONNECTED"
        ]
        first, second = layers[1], layers[2]
        for position in (1, 2):
            first.inputs[position], second.inputs[position] = (
                second.inputs[position],
                first.inputs[position],
            )

    with pytest.raises(
        ParityError, match="Dense_1:dense: the file does not feed it with .*Dense_0"
    ):
        float_kernels.check(edited(content, swapped), *form)
