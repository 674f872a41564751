from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from jaxmini.compress.quantize import simulate
from jaxmini.evaluate.runtime import tflite_integers
from jaxmini.export import integer_form, tflite
from jaxmini.export.flatbuffer import read, schema_module
from jaxmini.export.repair import integer_means
from tests.export.conftest import make, quantized
from tests.export.tampering import edited, find, set_code


def with_island(content: bytes, factor: float = 1 / 16, shared: bool = False) -> bytes:
    """The file with its MEAN written as TensorFlow's converter writes it."""
    schema = schema_module()
    builtin = schema.BuiltinOperator

    def edit(model: Any, graph: Any) -> None:
        mean = find(model, "MEAN")
        image, axes = mean.inputs
        source, result = graph.tensors[image], graph.tensors[mean.outputs[0]]
        constant = schema.BufferT()
        constant.data = np.frombuffer(np.float32(factor).tobytes(), np.uint8)
        model.buffers.append(constant)

        def tensor(name: str, shape: Any, buffer: int = 0) -> int:
            new = schema.TensorT()
            new.name, new.shape, new.type, new.buffer = name.encode(), shape, 0, buffer
            graph.tensors.append(new)
            return len(graph.tensors) - 1

        def op(code: int, inputs: list[int], output: int) -> Any:
            new = schema.OperatorT()
            new.inputs, new.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
            set_code(model, new, code)
            return new

        wide, total = tensor("wide", source.shape), tensor("total", result.shape)
        scaled = tensor("scaled", result.shape)
        factors = tensor("factor", np.zeros(0, np.int32), len(model.buffers) - 1)
        summed = op(builtin.SUM, [wide, axes], total)
        summed.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
        summed.builtinOptions = mean.builtinOptions
        product = op(builtin.MUL, [total, factors], scaled)
        product.builtinOptionsType = schema.BuiltinOptions.MulOptions
        product.builtinOptions = schema.MulOptionsT()
        index = next(i for i, own in enumerate(graph.operators) if own is mean)
        graph.operators[index : index + 1] = [
            op(builtin.DEQUANTIZE, [image], wide),
            summed,
            product,
            op(builtin.QUANTIZE, [scaled], int(mean.outputs[0])),
        ]

    return edited(content, edit)


def test_island_becomes_one_integer_operator(integer_bytes: bytes, images: np.ndarray):
    island = with_island(integer_bytes)
    assert {"DEQUANTIZE", "SUM", "MUL", "QUANTIZE"} <= read(island).op_counts.keys()
    fused = integer_means(island)
    file, original = read(fused), read(integer_bytes)
    assert [op.name for op in file.ops] == [op.name for op in original.ops]
    assert all(t.dtype != np.float32 for t in file.tensors)
    assert len(file.tensors) == len(original.tensors)
    answers = tflite_integers(fused)(images)
    np.testing.assert_array_equal(answers, tflite_integers(integer_bytes)(images))
    assert np.abs(answers.astype(int) - tflite_integers(island)(images)).max() <= 1


def test_a_float_sum_of_one_number_is_a_mean(integer_bytes: bytes):
    def without_product(model: Any, graph: Any) -> None:
        product = find(model, "MUL")
        find(model, "QUANTIZE").inputs[0] = product.inputs[0]
        graph.operators = [op for op in graph.operators if op is not product]
        graph.tensors[find(model, "SUM").inputs[0]].shape[1:3] = 1

    island = edited(with_island(integer_bytes), without_product)
    assert read(integer_means(island)).op_counts == read(integer_bytes).op_counts


def test_a_sum_that_is_no_mean_stays(integer_bytes: bytes):
    island = with_island(integer_bytes, factor=1 / 8)
    assert integer_means(island) == island


def test_a_file_without_islands_stays_byte_for_byte(integer_bytes: bytes):
    assert integer_means(integer_bytes) == integer_bytes


def test_not_a_file_is_refused():
    with pytest.raises(ValueError, match="not a .tflite file"):
        integer_means(b"something else entirely")


class OnePixel(nn.Module):
    """Ends in the mean of one number, which one converter writes as a sum or as a reshape."""

    keepdims: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(6, (8, 8), padding="VALID")(x))
        x = x.mean((1, 2), keepdims=self.keepdims)
        return nn.Dense(10)(x.reshape(len(x), -1))


@pytest.mark.parametrize("keepdims", [True, False])
def test_the_mean_of_one_number_exports(keepdims: bool, images: np.ndarray, tmp_path: Path):
    artifact = make(quantized(OnePixel(keepdims)), images)
    file = tflite(artifact, tmp_path / "one.tflite", variant="int8", backend="litert")
    assert "SUM" not in file.ops
    plan, frozen = integer_form(artifact, len(images))
    expected = simulate(plan, frozen, (images.astype(np.int16) - 128).astype(np.int8))
    np.testing.assert_array_equal(tflite_integers(file.path)(images), expected)
