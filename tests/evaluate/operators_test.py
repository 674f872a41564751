"""Every operator beside the simulation: exact on XNNPACK; a changed number is found where it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmini.compress.quantize import Frozen, Plan
from jaxmini.evaluate.interpreter import Interpreter, Kernels
from jaxmini.evaluate.operators import first_deviating, operator_parity
from jaxmini.evaluate.runtime import tflite_integers
from jaxmini.export import Artifact, integer_form, tflite
from tests.compress.quantize.token_nets import sentences
from tests.export.conftest import Block, make, quantized
from tests.export.masked import masked
from tests.export.tampering import change, edited, find


@pytest.fixture(scope="module")
def form(integer_artifact: Artifact) -> tuple[Plan, Frozen]:
    return integer_form(integer_artifact)


def test_every_operator_is_exact_on_xnnpack(
    integer_path: Path, form: tuple[Plan, Frozen], pictures: np.ndarray
):
    found = operator_parity(integer_path, *form, pictures)
    names = ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD", "PAD", "CONV_2D"]
    assert [op.name for op in found] == [*names, "MEAN", "FULLY_CONNECTED"]
    assert [op.index for op in found] == list(range(8))
    assert first_deviating(found) is None
    sizes = {op.name: op.deviation.compared for op in found if op.deviation is not None}
    assert sizes["ADD"] == len(pictures) * 8 * 8 * 8
    assert sizes["FULLY_CONNECTED"] == len(pictures) * 10
    assert [op.name for op in found if op.deviation is None] == ["PAD"]
    assert [op.name for op in found if op.group is None] == ["PAD"]


def test_moves_concatenations_and_pools_are_compared_too(pictures: np.ndarray, tmp_path: Path):
    artifact = make(quantized(Block(branches=True)), pictures)
    path = tflite(artifact, tmp_path / "b.tflite", variant="int8", backend="litert").path
    found = operator_parity(path, *integer_form(artifact), pictures[:4])
    assert {"MAX_POOL_2D", "CONCATENATION", "AVERAGE_POOL_2D"} <= {op.name for op in found}
    assert all(op.deviation.compared and not op.deviation.differing for op in found)


def test_other_kernels_round_single_operators_otherwise_by_one(
    integer_path: Path, form: tuple[Plan, Frozen], pictures: np.ndarray
):
    found = operator_parity(integer_path, *form, pictures, kernels=Kernels.REFERENCE)
    largest = {op.name: op.deviation.largest for op in found if op.deviation}
    assert max(largest.values()) == 1
    assert largest["ADD"] == largest["FULLY_CONNECTED"] == 0


def test_looking_between_operators_does_not_change_the_answers(
    integer_path: Path, pictures: np.ndarray
):
    looked = Interpreter(integer_path, keep_all=True)
    pixels = (pictures.astype(np.int16) - 128).astype(np.int8)
    answers = np.concatenate([looked.run(picture[None]) for picture in pixels])
    np.testing.assert_array_equal(answers, tflite_integers(integer_path)(pictures))


def kernel(model: Any, graph: Any) -> None:
    change(model, graph.tensors[find(model, "CONV_2D", 1).inputs[1]], 5, 127)


def depthwise_bias(model: Any, graph: Any) -> None:
    tensor = graph.tensors[find(model, "DEPTHWISE_CONV_2D").inputs[2]]
    change(model, tensor, 0, 123456, np.int32)


def sum_scale(model: Any, graph: Any) -> None:
    for name in ("ADD", "PAD"):  # a pad stays on its input's grid, or it is refused
        graph.tensors[find(model, name).outputs[0]].quantization.scale[0] *= np.float32(1.1)


def mean_zero_point(model: Any, graph: Any) -> None:
    graph.tensors[find(model, "MEAN").outputs[0]].quantization.zeroPoint[0] += 2


def dense_kernel(model: Any, graph: Any) -> None:
    change(model, graph.tensors[find(model, "FULLY_CONNECTED").inputs[1]], 4, -127)


@pytest.mark.parametrize("kernels", [Kernels.XNNPACK, Kernels.REFERENCE])
@pytest.mark.parametrize(
    ("tamper", "index", "group"),
    [
        (depthwise_bias, 1, "Plain/Conv_1:conv"),
        (kernel, 2, "Plain/Conv_2:conv"),
        (sum_scale, 3, "Plain:add"),
        (mean_zero_point, 6, "Plain:mean"),
        (dense_kernel, 7, "Plain/Dense_0:dense"),
    ],
)
def test_a_changed_number_is_found_where_it_is(
    tamper: Callable,
    index: int,
    group: str,
    kernels: Kernels,
    integer_path: Path,
    form: tuple[Plan, Frozen],
    pictures: np.ndarray,
):
    content = edited(integer_path.read_bytes(), tamper)
    found = operator_parity(content, *form, pictures, kernels=kernels)
    by_more_than_rounding = [op for op in found if op.deviation and op.deviation.largest > 1]
    assert (by_more_than_rounding[0].index, by_more_than_rounding[0].group) == (index, group)
    if kernels == Kernels.XNNPACK:
        assert first_deviating(found) == by_more_than_rounding[0]


def test_a_moved_number_is_found_at_the_operator_that_moves_it(
    pictures: np.ndarray, tmp_path: Path
):
    artifact = make(quantized(Block(branches=True)), pictures)
    path = tflite(artifact, tmp_path / "b.tflite", variant="int8", backend="litert").path

    def other_order(model: Any, graph: Any) -> None:
        op = find(model, "CONCATENATION")
        op.inputs = op.inputs[::-1].copy()

    def other_pool(model: Any, graph: Any) -> None:
        find(model, "MAX_POOL_2D").builtinOptions.filterWidth = 1

    plan, frozen = integer_form(artifact)
    swapped = edited(path.read_bytes(), other_pool)
    first = first_deviating(operator_parity(swapped, plan, frozen, pictures[:4]))
    assert (first.name, first.group) == ("MAX_POOL_2D", None)
    # What is concatenated in another order has no group any more; nothing after it is compared.
    reversed_parts = edited(path.read_bytes(), other_order)
    found = operator_parity(reversed_parts, plan, frozen, pictures[:4])
    assert [op.name for op in found if op.deviation is None][-3:] == [
        "AVERAGE_POOL_2D",
        "MEAN",
        "FULLY_CONNECTED",
    ]


def test_files_and_pictures_of_another_kind_are_refused(
    integer_path: Path, float_path: Path, form: tuple[Plan, Frozen], pictures: np.ndarray
):
    with pytest.raises(ValueError, match="float32 -> float32, not int8"):
        operator_parity(float_path, *form, pictures)
    with pytest.raises(ValueError, match=r"expected uint8 pictures \[N, 8, 8, 3\]"):
        operator_parity(integer_path, *form, pictures[:0])
    with pytest.raises(ValueError, match="operator_parity: the file is int32 -> int8, not int8"):
        operator_parity(masked()[0], *form, pictures)


def test_operators_of_a_network_of_tokens_are_compared():
    content, plan, frozen = masked()
    tokens = np.asarray(sentences())
    found = operator_parity(content, plan, frozen, tokens)
    assert {"SOFTMAX", "BATCH_MATMUL", "FULLY_CONNECTED", "GATHER_ND"} <= {
        op.name for op in found if op.deviation is not None
    }
    assert first_deviating(found) is None
    place = next(op.index for op in found if op.name == "FULLY_CONNECTED")

    def tamper(model: Any, graph: Any) -> None:
        change(model, graph.tensors[find(model, "FULLY_CONNECTED").inputs[1]], slice(0, 9), 127)

    changed = operator_parity(edited(content, tamper), plan, frozen, tokens)
    assert first_deviating(changed).index == place
    for wrong in (tokens.astype(np.uint8), tokens[:, :2], tokens[:0]):
        with pytest.raises(ValueError, match=r"expected int32 tokens \[N, 6\], N >= 1, got"):
            operator_parity(content, plan, frozen, wrong)
