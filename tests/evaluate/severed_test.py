"""Severed: every operator of a file on numbers of its own."""

from pathlib import Path

import numpy as np
import pytest

from jaxmini.evaluate import native
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.evaluate.severed import severed
from jaxmini.export import Artifact, flatbuffer, tflite
from tests.export.single import pair, single


@pytest.mark.parametrize("kernels", native.RESOLVERS)
def test_operators_answer_what_they_are_fed_with(integer_path: Path, kernels: str):
    file, parts = flatbuffer.read(integer_path), severed(integer_path)
    assert set(parts.written) == {index for op in file.ops for index in op.outputs}
    assert set(parts.fed.values()) == set(parts.written) - set(file.outputs)
    whole = Interpreter(integer_path, kernels=kernels, keep_all=True)
    alone = native.interpreter(parts.content, kernels, 1, False)
    rng = np.random.default_rng(0)
    image = rng.integers(-128, 128, whole.input.shape, np.int8)
    whole.run(image)

    def answers(fed: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        alone.set_tensor(file.inputs[0], image)
        for index, of in parts.fed.items():
            alone.set_tensor(index, fed[of])
        alone.invoke()
        return {index: alone.get_tensor(index) for index in parts.written}

    own = {index: whole.tensor(index) for index in parts.written}
    found = answers(own)
    for index in parts.written:
        np.testing.assert_array_equal(found[index], own[index])
    others = {index: np.flip(numbers) for index, numbers in own.items()}
    moved = answers(others)
    first = file.ops[0].outputs[0]  # reads the picture alone, which is the same
    np.testing.assert_array_equal(moved[first], own[first])
    assert any(np.any(moved[index] != own[index]) for index in parts.written)


def test_what_is_known_before_stays_a_constant(float_artifact: Artifact, tmp_path: Path):
    """Convolutions take kernels that DEQUANTIZE alone gives; as inputs they would not do."""
    path = tflite(float_artifact, tmp_path / "float16.tflite", variant="float16").path
    file, parts = flatbuffer.read(path), severed(path)
    made = {index: op for op in file.ops for index in op.outputs}
    assert "DEQUANTIZE" in file.op_counts
    assert parts.fed
    assert all(made[of].name != "DEQUANTIZE" for of in parts.fed.values())


def test_several_inputs_and_one_operator():
    assert severed(pair()).fed == severed(single("ABS")).fed == {}
    assert flatbuffer.read(severed(pair()).content).inputs == (0, 2)


def test_a_damaged_file_is_refused():
    with pytest.raises(ValueError, match=r"model bytes: not a \.tflite file"):
        severed(b"no such thing")
