"""Interpreter: pixels as a file takes them, whole batches, and files of one operator on every kernel."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.evaluate.interpreter import (
    LITERT,
    Interpreter,
    Kernels,
    in_batches,
    known_kernels,
    require_ends,
)
from jaxmini.evaluate.native import RESOLVERS
from jaxmini.export.flatbuffer import read, schema_module
from tests.export.single import SHAPE, pair, single
from tests.export.tampering import edited, find

FILE = single("ABS", grid=(0.02, 5))
INPUTS = np.arange(-8, 8, dtype=np.int8).reshape(SHAPE) * np.int8(8)
# |0.02 (q + 3)| on the grid of the output.
EXPECTED = np.abs(INPUTS.astype(int) + 3) + 5


@given(st.integers(0, 20), st.integers(1, 9))
def test_batches_hold_every_image_in_order_and_are_all_full(count: int, size: int):
    images = np.arange(count)[:, None]
    batches = list(in_batches(images, size))
    assert len(batches) == -(-count // size)
    assert all(batch.shape == (size, 1) for batch in batches)
    if batches:
        np.testing.assert_array_equal(np.concatenate(batches)[:count], images)
        assert set(batches[-1].ravel()) == set(range(size * (len(batches) - 1), count))


def test_kernels_are_known_by_name():
    assert [known_kernels(kernels.value) for kernels in Kernels] == list(Kernels)
    assert {kernels.value for kernels in LITERT} == set(RESOLVERS)
    with pytest.raises(
        ValueError,
        match="'xnpack' are unknown; there are 'xnnpack', .*, 'micro'; did you mean 'xnnpack'",
    ):
        known_kernels("xnpack")


@pytest.mark.parametrize("kernels", LITERT)
def test_a_file_is_run_by_the_kernels_named(kernels: Kernels):
    interpreter = Interpreter(FILE, kernels=kernels, threads=2)
    assert (interpreter.input.shape, interpreter.output.dtype) == (SHAPE, np.int8)
    np.testing.assert_array_equal(interpreter.run(INPUTS), EXPECTED)
    np.testing.assert_array_equal(interpreter.tensor(interpreter.file.outputs[0]), EXPECTED)
    # A second run answers anew, and what was given out before does not change.
    first = interpreter.run(INPUTS)
    kept = first.copy()
    interpreter.run(np.zeros_like(INPUTS))
    np.testing.assert_array_equal(first, kept)


def test_a_path_is_read_and_named_where_it_is_damaged(tmp_path: Path):
    path = tmp_path / "net.tflite"
    path.write_bytes(FILE)
    np.testing.assert_array_equal(Interpreter(path).run(INPUTS), EXPECTED)
    path.write_bytes(FILE[:60])
    with pytest.raises(ValueError, match=r"net\.tflite: "):
        Interpreter(path)


def test_an_operator_that_the_kernels_refuse_is_told_with_the_file():
    with pytest.raises(ValueError, match="model bytes: the interpreter refuses the file: "):
        Interpreter(single("LOGISTIC", grid=(0.5, 0)), kernels="reference")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"threads": 1025}, "threads is 1025; it must be at most 1024"),
        ({"threads": 2, "kernels": "micro"}, "threads is 2; TFLite-Micro runs on one"),
        ({"signature": "a", "kernels": "micro"}, "signature is 'a'; TFLite-Micro runs a file's"),
        ({"kernels": "fast"}, "kernels 'fast' are unknown"),
        ({"signature": "a"}, "has no signature 'a'; there is none"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Interpreter(FILE, **options)


def test_a_file_maps_one_array_of_a_known_size_to_one():
    file = read(FILE)
    require_ends(file, "a.tflite")
    first, second = file.tensors

    def changed(**fields: object):
        return dataclasses.replace(file, tensors=(dataclasses.replace(first, **fields), second))

    require_ends(changed(dynamic=(0,)), "a.tflite")  # the batch may be open
    require_ends(dataclasses.replace(file, inputs=(0, 1)), "a.tflite", several=True)
    for odd, message in (
        (dataclasses.replace(file, inputs=(0, 1)), "a.tflite: has 2 inputs; one is expected"),
        (dataclasses.replace(file, outputs=()), "a.tflite: has no outputs; at least one"),
        (
            changed(name="x", dynamic=(0, 2)),
            r"tensor 'x' has a size .*dimensions \[0, 2\] of \[1, 2",
        ),
        (changed(name="x", shape=(1, -1)), r"tensor 'x' has the shape \[1, -1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            require_ends(odd, "a.tflite")


def test_a_signature_takes_and_gives_several_in_the_order_of_the_file():
    """Its own order is that of their names, here the other way about."""

    def name_ends(model: Any, graph: Any) -> None:
        schema = schema_module()

        def named(name: str, index: int) -> Any:
            end = schema.TensorMapT()
            end.name, end.tensorIndex = name, index
            return end

        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "both", 0
        signature.inputs = list(map(named, "ba", graph.inputs))
        signature.outputs = list(map(named, "dc", graph.outputs))
        model.signatureDefs = [signature]

    both = Interpreter(edited(pair(), name_ends), signature="both", several=True)
    integers = np.arange(np.prod(SHAPE), dtype=np.int8).reshape(SHAPE) - 5
    floats = -integers.astype(np.float32)
    np.testing.assert_array_equal(both.run(integers, floats, output=1), np.abs(floats))
    alone = Interpreter(pair(), several=True)
    expected = alone.run(integers, floats)
    assert expected.dtype == np.int8
    np.testing.assert_array_equal(both.run(integers, floats), expected)


def test_what_leads_nowhere_is_not_there_and_told_by_the_file_s_name(
    integer_path: Path, tmp_path: Path
):
    """XNNPACK leaves out what nothing reads."""

    def no_longer_read(model: Any, graph: Any) -> None:
        last, before = find(model, "CONV_2D", 2), find(model, "CONV_2D", 1)
        last.inputs[0] = before.inputs[1]

    path = tmp_path / "odd.tflite"
    path.write_bytes(edited(integer_path.read_bytes(), no_longer_read))
    odd = Interpreter(path, keep_all=True)
    odd.run(np.zeros(odd.input.shape, np.int8))
    (unread,) = (op.outputs[0] for op in odd.file.ops if op.name == "PAD")
    with pytest.raises(ValueError, match=r"odd\.tflite: tensor '.*' is not there after a run"):
        odd.tensor(unread)
