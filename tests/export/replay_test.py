"""Replay: every operator from what the file read there; of the groups asked for alone, with all moves."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxmini.compress.quantize import quant_point
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.plan import Weighted
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.export import Artifact, edges, integer_form
from jaxmini.export.flatbuffer import File
from jaxmini.export.integer import integer_file
from jaxmini.export.replay import Replay
from tests.compress.quantize.token_nets import sentences
from tests.export.conftest import make, quantized
from tests.export.masked import masked


@pytest.fixture(scope="module")
def content(branched_artifact: Artifact) -> bytes:
    return integer_file(*integer_form(branched_artifact), "litert")[0]


@pytest.fixture(scope="module")
def file(content: bytes) -> File:
    return edges.core(Interpreter(content).file)


@pytest.fixture(scope="module")
def replay(file: File, branched_artifact: Artifact) -> Replay:
    return Replay(file, *integer_form(branched_artifact))


@pytest.fixture(scope="module")
def tensors(content: bytes, replay: Replay, images: np.ndarray) -> dict[int, np.ndarray]:
    interpreter = Interpreter(content, keep_all=True)
    interpreter.run((images[:1].astype(np.int16) - 128).astype(np.int8))
    return {index: interpreter.tensor(index).copy() for index in replay.tensors}


def written_by(file: File, *names: str) -> set[int]:
    return {index for op in file.ops if op.name in names for index in op.outputs}


def test_what_a_run_leaves_is_what_is_expected(file: File, replay: Replay, tensors: dict):
    expected = replay(tensors)
    every = {index for op in file.ops for index in op.outputs}
    assert every - expected.keys() <= written_by(file, "PAD", "RESHAPE")
    for index, integers in expected.items():
        np.testing.assert_array_equal(np.ravel(integers), np.ravel(tensors[index]))


def test_a_changed_number_is_expected_otherwise_where_it_is_read_and_no_further(
    file: File, replay: Replay, tensors: dict
):
    first, second = [op for op in file.ops if op.name == "CONV_2D"][:2]
    (changed,) = first.outputs
    expected, other = replay(tensors), replay(tensors | {changed: tensors[changed] ^ 64})
    moved = {i for i in expected if not np.array_equal(expected[i], other[i])}
    readers = {index for op in file.ops if changed in op.inputs for index in op.outputs}
    assert moved == readers
    assert not set(second.outputs) & moved


def test_only_moves_and_the_groups_asked_for_are_computed(
    file: File, branched_artifact: Artifact, tensors: dict
):
    form = integer_form(branched_artifact)
    moves = written_by(file, "MAX_POOL_2D", "CONCATENATION")
    assert Replay(file, *form, only=Island)(tensors).keys() == moves
    kernels = written_by(file, "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    assert Replay(file, *form, only=Weighted)(tensors).keys() == moves | kernels


class Fused(nn.Module):
    """Rectifiers that a converter fuses into a convolution before a point, and into a pool."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(quant_point(nn.Conv(4, (3, 3))(x), "first"))
        x = nn.relu(nn.max_pool(quant_point(nn.Conv(4, (3, 3))(x), "second"), (2, 2), (2, 2)))
        return nn.Dense(10)(x.mean((1, 2)))


def test_fused_rectifiers_are_expected_where_they_are(images: np.ndarray):
    artifact = make(quantized(Fused()), images)
    content, _ = integer_file(*integer_form(artifact), "litert")
    interpreter = Interpreter(content, keep_all=True)
    interpreter.run((images[:1].astype(np.int16) - 128).astype(np.int8))
    file = edges.core(interpreter.file)
    assert [op.activation for op in file.ops if op.name in ("CONV_2D", "MAX_POOL_2D")] == [
        "RELU",
        "NONE",
        "RELU",
    ]
    replay = Replay(file, *integer_form(artifact))
    tensors = {index: interpreter.tensor(index).copy() for index in replay.tensors}
    expected = replay(tensors)
    assert expected.keys() >= written_by(file, "CONV_2D", "MAX_POOL_2D")
    for index, integers in expected.items():
        np.testing.assert_array_equal(np.ravel(integers), np.ravel(tensors[index]))
    (pooled,) = written_by(file, "MAX_POOL_2D")
    other = replay(tensors | {pooled: tensors[pooled] ^ 64})
    np.testing.assert_array_equal(other[pooled], expected[pooled])


def test_what_a_mask_by_tokens_adds_is_expected_where_it_is_looked_up():
    content, plan, frozen = masked()
    file = Interpreter(content).file
    replay = Replay(file, plan, frozen)
    interpreter = Interpreter(content, keep_all=True)
    for tokens in np.asarray(sentences())[:4]:
        interpreter.run(tokens[None])
        tensors = {index: interpreter.tensor(index).copy() for index in replay.tensors}
        expected = replay(tensors)
        assert written_by(file, "ADD", "SOFTMAX", "GATHER_ND", "GATHER") <= expected.keys()
        for index, integers in expected.items():
            np.testing.assert_array_equal(np.ravel(integers), np.ravel(tensors[index]))
