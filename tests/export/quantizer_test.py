"""A third opinion: ai-edge-quantizer, given a float file and our ranges, stores the integers that we store.

It knows nothing of plans. Its file is compared number for number with the frozen network, as ours is.
"""

import numpy as np
import pytest

from jaxmini.compress.quantize import Frozen, Grid, Plan, quantize, weights_only
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.grid import HIGH, LARGEST_BIAS, LOW
from jaxmini.compress.quantize.plan import Move, Weighted
from jaxmini.export import (
    Artifact,
    flatbuffer,
    float_kernels,
    integer_form,
    litert,
    parity,
    weights_only_form,
)
from jaxmini.export.correspondence import COMPUTING, correspond
from jaxmini.model import from_linen
from tests.export.conftest import Block, make, quantized

quantizer = pytest.importorskip("ai_edge_quantizer.quantizer")
recipe = pytest.importorskip("ai_edge_quantizer.recipe")


def float_file(artifact: Artifact, plan: Plan) -> bytes:
    """The network in floats, folded as the integers were: a converter's own fold differs in the last bit."""
    floats = {name: tree for name, tree in artifact.variables.items() if name != "quant"}
    folded = Float(plan, floats)
    return litert.convert(lambda image: evaluate(plan, folded, image), artifact.input_spec(1))


def ranges(file: flatbuffer.File, plan: Plan, frozen: Frozen) -> dict[str, dict[str, np.ndarray]]:
    """Our grids as the range of each computed tensor of the float file, found along the data."""
    grids: dict[int, Grid] = {file.inputs[0]: frozen.grids["input"]}
    for group, op in correspond(file, plan, frozen).pairs:
        assert op is not None, group.name
        grids[op.outputs[0]] = frozen.grids[group.site]
    for op in file.ops:  # in the order they run: what moves numbers keeps their grid
        if op.name not in COMPUTING:
            grids[op.outputs[0]] = next(grids[i] for i in op.inputs if i in grids)
    return {file.tensors[index].name: _range(grid) for index, grid in grids.items()}


def _range(grid: Grid) -> dict[str, np.ndarray]:
    # In float64: the quantizer computes the scale back from it, and float32 would lose the last bit.
    scale = np.float64(np.float32(grid.scale))
    ends = ((LOW - int(grid.zero_point)) * scale, (HIGH - int(grid.zero_point)) * scale)
    return {name: np.array([end]) for name, end in zip(("min", "max"), ends, strict=True)}


def quantized_by_it(artifact: Artifact, plan: Plan, frozen: Frozen) -> bytes:
    content = float_file(artifact, plan)
    found = quantizer.Quantizer(bytearray(content))
    found.load_quantization_recipe(recipe.static_wi8_ai8())
    calibrated = ranges(flatbuffer.read(content), plan, frozen)
    return bytes(found.quantize(calibrated, enable_progress_report=False).quantized_model)


def last_bits(stored: np.ndarray, frozen: np.ndarray) -> np.ndarray:
    """How many float32 numbers apart they are."""
    return np.abs(stored.view(np.int32) - frozen.view(np.int32))


# The quantizer runs the interpreter in a way that it warns of.
WARNS = pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors:UserWarning")


@WARNS
@pytest.mark.parametrize("branches", [False, True])
def test_the_quantizer_stores_the_same_numbers(branches: bool, images: np.ndarray):
    artifact = make(quantized(Block(branches=branches)), images)
    plan, frozen = integer_form(artifact)
    content = quantized_by_it(artifact, plan, frozen)
    compared, differences = parity.differing(content, plan, frozen)
    assert compared.groups == sum(not isinstance(group, Move) for group in plan.groups)
    # All integers, scales and zero points but these, which it divides by 127 where we multiply by 1/127.
    assert all("kernel scale" in line for line in differences), differences
    file, apart = flatbuffer.read(content), []
    for group, op in correspond(file, plan, frozen).pairs:
        if isinstance(group, Weighted):
            stored = file.tensors[op.inputs[1]].scale
            apart += last_bits(stored, frozen.kernels[group.name].scale).tolist()
    assert len(apart) == compared.kernel_scales
    assert max(apart) <= 1


@WARNS
def test_a_silent_channel_s_bias_saturates_in_its_file_and_not_in_ours(integer_artifact: Artifact):
    """BatchNorm with gamma 0 leaves a bias and no kernel: our scale is raised until the bias fits."""
    plan, frozen = integer_form(integer_artifact)
    (silent,) = (name for name, kernel in frozen.kernels.items() if not kernel.kernel.any())
    file = flatbuffer.read(quantized_by_it(integer_artifact, plan, frozen))
    _, differences = parity.differing(file, plan, frozen)
    others = [line for line in differences if "kernel scale" not in line]
    assert all(line.startswith(f"{silent} bias: 8 of 8 differ") for line in others)
    assert len(others) == 1
    op = next(op for group, op in correspond(file, plan, frozen).pairs if group.name == silent)
    theirs = np.abs(file.tensors[op.inputs[2]].data.astype(np.int64))
    assert (theirs == np.iinfo(np.int32).max).any()
    ours = np.abs(frozen.kernels[silent].bias.astype(np.float64))
    assert (ours <= 1.001 * LARGEST_BIAS).all()


def test_the_quantizer_rounds_kernels_alone_to_the_same_integers(images: np.ndarray):
    artifact = make(quantize(from_linen(Block(branches=True)), weights_only()), images)
    plan, frozen = weights_only_form(artifact)
    found = quantizer.Quantizer(bytearray(float_file(artifact, plan)))
    found.load_quantization_recipe(recipe.weight_only_wi8_afp32())
    content = bytes(found.quantize(enable_progress_report=False).quantized_model)
    compared, differences = float_kernels.differing(flatbuffer.read(content), plan, frozen)
    assert compared.groups == 6
    # Of scales it divides by the limit where we multiply; biases it leaves as the float file has them.
    assert not any(" kernel: " in line for line in differences), differences
    file = flatbuffer.read(content)
    pairs, extra = float_kernels.correspond(file, plan, frozen)
    assert not extra
    for name, op in pairs.items():
        theirs = float_kernels.stored_of(float_kernels.widened(file), op)
        assert last_bits(theirs.scale, frozen.kernels[name].scale).max() <= 1
        np.testing.assert_array_equal(theirs.kernel.ravel(), frozen.kernels[name].kernel.ravel())
