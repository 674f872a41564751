"""A third opinion: ai-edge-quantizer, given a float file and our ranges, must store the integers we store.

It knows nothing of plans. Its file is compared number for number with the frozen network, as ours is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import Frozen, Grid, Plan
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.grid import HIGH, LOW
from jaxmini.export import Artifact, flatbuffer, integer_form, litert, parity
from jaxmini.export.correspondence import COMPUTING, correspond

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


@pytest.mark.parametrize("which", ["integer_artifact", "branched_artifact"])
def test_the_quantizer_stores_the_same_numbers(which: str, request: pytest.FixtureRequest):
    artifact = request.getfixturevalue(which)
    plan, frozen = integer_form(artifact)
    content = float_file(artifact, plan)
    ours = ranges(flatbuffer.read(content), plan, frozen)
    theirs = quantizer.Quantizer(bytearray(content))
    theirs.load_quantization_recipe(recipe.static_wi8_ai8())
    found = theirs.quantize(ours, enable_progress_report=False).quantized_model
    compared, differences = parity.differing(bytes(found), plan, frozen)
    print(compared, *differences, sep="\n")
    assert not differences
    assert compared == parity.check(litert_file(artifact), plan, frozen)


def litert_file(artifact: Artifact) -> bytes:
    from jaxmini.export.annotate import annotated

    plan, frozen = integer_form(artifact)
    image = jax.ShapeDtypeStruct((1, *artifact.input_shape), jnp.int8)
    return litert.convert(annotated(plan, frozen), image)
