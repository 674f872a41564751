"""ONNX parity: what a file stores is compared here by a reading of its own, and a change is found."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx as package
import pytest
from onnx import numpy_helper

from jaxmini.export import ParityError, integer_form, onnx, onnx_file, onnx_parity
from tests.compress.quantize.quantize_nets import Attention, Branches, Residual
from tests.export.onnx_nets import Shapes, artifact_of, name_of, text


@pytest.mark.parametrize("net", [Residual, Branches, Shapes], ids=name_of)
def test_every_stored_number_is_the_frozen_one(net: type, tmp_path: Path):
    artifact = artifact_of(net(), integer=True)
    model = package.load(onnx(artifact, tmp_path / "net.onnx", variant="int8").path)
    plan, frozen = integer_form(artifact)
    # The parameters of every Q and DQ are grids of the plan, and every grid is there.
    stored = {a.name: numpy_helper.to_array(a) for a in model.graph.initializer}
    nodes = {node.output[0]: node for node in model.graph.node}
    rounding = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    found = {tuple(stored[name].item() for name in node.input[1:]) for node in rounding}
    grids = {n: (float(g.scale), int(g.zero_point) + 128) for n, g in frozen.grids.items()}
    assert found | {grids["input"]} == set(grids.values())
    for node in rounding:  # each Q is read by DQs of the same grid
        for reader in (n for n in model.graph.node if node.output[0] in n.input):
            assert list(reader.input[1:]) == list(node.input[1:])
    products = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(products) == len(plan.weighted)
    for node, group in zip(products, plan.weighted, strict=True):
        kernel = nodes[node.input[1]]
        integers, scale, zero_point = (stored[name] for name in kernel.input)
        axis = {a.name: a.i for a in kernel.attribute}["axis"]
        assert integers.dtype == np.int8
        assert not zero_point.any()
        want = frozen.kernels[group.name]
        assert integers.shape[axis] == scale.size
        np.testing.assert_array_equal(scale, want.scale)
        last = np.moveaxis(integers, axis, -1)  # [I, H, W, O] of a convolution
        if integers.ndim == 4 and group.kernel is not None:
            last = np.moveaxis(last, 0, 2)
        np.testing.assert_array_equal(last.ravel(), want.kernel.ravel())
    biases = [array for array in stored.values() if array.dtype == np.int32 and array.any()]
    wanted = [kernel.bias for kernel in frozen.kernels.values() if kernel.bias.any()]
    assert sorted(a.tolist() for a in biases) == sorted(a.tolist() for a in wanted)
    constants = {bytes(sorted(a.tobytes())) for a in stored.values() if a.dtype == np.uint8}
    for constant in frozen.constants.values():  # in whatever order of axes
        integers = (constant.values.astype(np.int16) + 128).astype(np.uint8)
        assert bytes(sorted(integers.tobytes())) in constants


def retyped(array: package.TensorProto, change: Callable[[np.ndarray], None]) -> None:
    values = numpy_helper.to_array(array).copy()
    change(values)
    array.CopyFrom(numpy_helper.from_array(values, array.name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Branches/second:conv/kernel", "Branches/second:conv kernel: 432 numbers int8"),
        ("Branches/second:conv/kernel_scale", "Branches/second:conv kernel scale"),
        ("Branches/second:conv/bias", "Branches/second:conv bias: 8 numbers int32"),
        ("Branches/second:conv/bias_scale", "bias scale: it is not input scale"),
        ("Branches/second:conv/scale", r"Branches/second:conv: \(scale, zero point\) is"),
        ("scale", r"input: \(scale, zero point\) is"),
    ],
)
def test_a_changed_number_is_found(name: str, message: str, tmp_path: Path):
    artifact = artifact_of(Branches(), integer=True)
    exported = onnx(artifact, tmp_path / "net.onnx", variant="int8")
    plan, frozen = integer_form(artifact, 2)
    model = package.load(exported.path)
    assert onnx_parity.check(model, plan, frozen) == exported.parity
    assert exported.parity.kernel_integers == sum(k.kernel.size for k in frozen.kernels.values())
    (array,) = (a for a in model.graph.initializer if a.name == name)
    retyped(array, lambda values: np.multiply(values, 2, out=values, casting="unsafe"))
    with pytest.raises(ParityError, match=message):
        onnx_parity.check(model, plan, frozen)


def test_a_changed_constant_is_found(tmp_path: Path):
    artifact = artifact_of(Shapes(), integer=True)
    model = package.load(onnx(artifact, tmp_path / "net.onnx", variant="int8").path)
    (array,) = (a for a in model.graph.initializer if a.name.endswith("mul/constant"))
    retyped(array, lambda values: np.add(values, 1, out=values))
    with pytest.raises(ParityError, match="mul: constant operand 1 of it is not in the file"):
        onnx_parity.check(model, *integer_form(artifact, 2))


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("Attention:mask/constant", "Attention:mask: constant operand 1 of it is not in the file"),
        ("Attention/norm0:norm/constant", "Attention/norm0:norm: what it holds, number"),
    ],
)
def test_changed_masks_and_islands_are_found(prefix: str, message: str, tmp_path: Path):
    artifact = artifact_of(Attention(), integer=True)
    exported = onnx(artifact, tmp_path / "net.onnx", variant="int8")
    plan, frozen = integer_form(artifact, 2)
    assert exported.parity.groups == len(plan.groups)
    assert exported.parity.island_floats == sum(f.size for f in frozen.floats.values()) == 60
    model = package.load(exported.path)
    array = max(
        (a for a in model.graph.initializer if a.name.startswith(prefix)),
        key=lambda a: len(a.raw_data),
    )
    retyped(array, lambda values: np.add(values, 1, out=values))
    with pytest.raises(ParityError, match=message):
        onnx_parity.check(model, plan, frozen)


def test_a_changed_table_is_found():
    _, _, plan, frozen = text()
    content, compared = onnx_file(plan, frozen)
    assert compared.constant_integers >= 11 * 8
    model = package.load_model_from_string(content)
    (array,) = (a for a in model.graph.initializer if a.name == "Text/tokens:lookup/constant")
    retyped(array, lambda values: np.add(values, 1, out=values))
    with pytest.raises(ParityError, match="Text/tokens:lookup: constant operand 0 of it"):
        onnx_parity.check(model, plan, frozen)
