import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmini.compress.quantize import Frozen, Grid, Plan
from jaxmini.export import Artifact, Exported, ParityError, integer_form, tflite
from jaxmini.export.flatbuffer import read, schema_module
from jaxmini.export.parity import check
from tests.export.masked import masked
from tests.export.tampering import change, edited, find, set_code


@pytest.fixture(scope="module")
def form(integer_artifact: Artifact) -> tuple[Plan, Frozen]:
    return integer_form(integer_artifact)


def kernel(model: Any, graph: Any) -> None:
    tensor = graph.tensors[find(model, "CONV_2D", 1).inputs[1]]
    change(model, tensor, 5, 0 if model.buffers[tensor.buffer].data[5] else 1)


def bias(model: Any, graph: Any) -> None:
    change(model, graph.tensors[find(model, "FULLY_CONNECTED").inputs[2]], 0, 12345678, np.int32)


def kernel_scale(model: Any, graph: Any) -> None:
    scale = graph.tensors[find(model, "CONV_2D").inputs[1]].quantization.scale
    scale[3] = np.nextafter(scale[3], np.float32(1))


def activation_scale(model: Any, graph: Any) -> None:
    scale = graph.tensors[find(model, "ADD").outputs[0]].quantization.scale
    scale[0] = np.nextafter(scale[0], np.float32(1))


def zero_point(model: Any, graph: Any) -> None:
    graph.tensors[find(model, "MEAN").outputs[0]].quantization.zeroPoint[0] += 1


def input_scale(model: Any, graph: Any) -> None:
    graph.tensors[graph.inputs[0]].quantization.scale[0] *= np.float32(1.01)


def swapped_mean(model: Any, graph: Any) -> None:
    set_code(model, find(model, "MEAN"), schema_module().BuiltinOperator.SUM)


def wrong_source(model: Any, graph: Any) -> None:
    find(model, "CONV_2D", 1).inputs[0] = find(model, "CONV_2D", 0).outputs[0]


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (kernel, r"Conv_2:conv kernel: 1 of 64 differ, the first at"),
        (bias, r"Dense_0:dense bias: 1 of 10 differ, the first at 0: 12345678"),
        (kernel_scale, r"Conv_0:conv kernel scale: 1 of 8 differ, the first at 3"),
        (activation_scale, r"add: \(scale, zero point\) is"),
        (zero_point, r"mean: \(scale, zero point\) is"),
        (input_scale, r"input: \(scale, zero point\) is"),
        (swapped_mean, r"mean: no operator of the file computes it"),
        (wrong_source, r"Conv_2:conv: no operator of the file computes it"),
    ],
)
def test_one_changed_number_is_found(
    tamper: Callable, message: str, integer_bytes: bytes, form: tuple[Plan, Frozen]
):
    check(integer_bytes, *form)
    with pytest.raises(ParityError, match=message):
        check(edited(integer_bytes, tamper), *form)


def test_all_numbers_are_compared(integer_bytes: bytes, form: tuple[Plan, Frozen]):
    counts = check(integer_bytes, *form)
    file = read(integer_bytes)
    kernels = [t for t in file.tensors if t.data is not None and t.dtype == np.int8]
    biases = [
        t for t in file.tensors if t.data is not None and t.dtype == np.int32 and t.is_quantized
    ]
    assert counts.kernel_integers == sum(t.data.size for t in kernels)
    assert counts.kernel_scales == sum(t.scale.size for t in kernels)
    assert counts.bias_integers == sum(t.data.size for t in biases)
    assert counts.groups == len(form[0].groups) - 1  # the max-pool moves numbers


def test_missing_rectifier_is_found(integer_bytes: bytes, form: tuple[Plan, Frozen]):
    plan, frozen = form
    site = next(group.site for group in plan.groups if "Conv_1" in group.name)
    wide = copy.copy(frozen.grids) | {site: Grid(np.float32(0.05), np.int32(-100))}

    def edit(model: Any, graph: Any) -> None:
        quantization = graph.tensors[find(model, "DEPTHWISE_CONV_2D").outputs[0]].quantization
        quantization.scale[0], quantization.zeroPoint[0] = 0.05, -100

    def edit_without(model: Any, graph: Any) -> None:
        edit(model, graph)
        find(model, "DEPTHWISE_CONV_2D").builtinOptions.fusedActivationFunction = 0

    moved = dataclasses.replace(frozen, grids=wide)
    with_rectifier = edited(integer_bytes, edit)
    check(with_rectifier, plan, moved)
    with pytest.raises(
        ParityError, match=r"held to \(-128, 127\) by NONE, frozen \(-100, 20\) by relu6"
    ):
        check(edited(integer_bytes, edit_without), plan, moved)


def test_parallel_branches_are_told_apart(branched_artifact: Artifact, tmp_path: Path):
    file = tflite(branched_artifact, tmp_path / "b.tflite", variant="int8", backend="litert").path
    plan, frozen = integer_form(branched_artifact)
    first, second = (name for name in frozen.kernels if "Conv_3" in name or "Conv_4" in name)
    exchanged = {first: frozen.kernels[second], second: frozen.kernels[first]}

    def change_one(model: Any, graph: Any) -> None:
        change(model, graph.tensors[find(model, "CONV_2D", 3).inputs[1]], 0, 99)

    check(file, plan, frozen)
    # The branches are alike but for their numbers. Exchanged, each finds its own operator, and what is
    # concatenated has another order.
    with pytest.raises(ParityError, match="avg_pool: no operator") as error:
        check(file, plan, dataclasses.replace(frozen, kernels=frozen.kernels | exchanged))
    assert "Conv" not in str(error.value)
    with pytest.raises(ParityError, match=r"Conv_4:conv kernel: 1 of 32 differ") as error:
        check(edited(file.read_bytes(), change_one), plan, frozen)
    assert "Conv_3" not in str(error.value)


def test_a_file_of_another_network_is_refused(
    convert: Callable[[str, str], Exported], branched_artifact: Artifact
):
    with pytest.raises(ParityError, match="no operator of the file computes it"):
        check(convert("int8", "litert").path, *integer_form(branched_artifact))


def test_what_a_mask_by_tokens_may_add_is_compared():
    content, plan, frozen = masked()
    assert check(content, plan, frozen).constant_integers >= 2 * 2
    name = "Encoder/attention1:mask#1"
    step = frozen.constants[name]
    for other, message in (
        (dataclasses.replace(step, values=np.int8([-126, 0])), "mask constant: 1 of 2 differ"),
        (dataclasses.replace(step, grid=Grid(np.float32(0.5), np.int32(0))), "mask input: "),
    ):
        changed = dataclasses.replace(frozen, constants={**frozen.constants, name: other})
        with pytest.raises(ParityError, match=f"Encoder/attention1:{message}"):
            check(content, plan, changed)
