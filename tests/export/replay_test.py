"""Replay: every operator from what the file read there; of the groups asked for alone, with all moves."""

import numpy as np
import pytest

from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.plan import Weighted
from jaxmini.evaluate.interpreter import Interpreter
from jaxmini.export import Artifact, edges, integer_form
from jaxmini.export.flatbuffer import File
from jaxmini.export.integer import integer_file
from jaxmini.export.replay import Replay


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
