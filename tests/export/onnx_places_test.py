"""ONNX places: rows of a table, and choices by places and masks, are those that JAX reads."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmini.compress.quantize import calibrate, freeze, make_plan, quantize
from jaxmini.compress.quantize.moving import Select
from jaxmini.compress.quantize.plan import Mean
from jaxmini.evaluate.onnx_runtime import onnx_predict
from jaxmini.export import integer_form, onnx, onnx_file, predict
from tests.export.onnx_graphs import Plain, in_pairs, inland, model_that, planned, translated
from tests.export.onnx_groups import deviations
from tests.export.onnx_nets import IMAGES, Places, artifact_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 4, 5, 3)).astype(np.float32)
SHAPE = (2, *X.shape[1:])
CHECKERS = np.indices(SHAPE[1:]).sum(0)[None] % 2 == 0
OTHER = np.linspace(-1, 1, 60, dtype=np.float32).reshape(1, 4, 5, 3)


def windows(x: jax.Array) -> jax.Array:
    """Two rows of pixels at each place, which no Gather of ONNX takes along an axis."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(0, 2, 3, 4), collapsed_slice_dims=(), start_index_map=(1,)
    )
    return lax.gather(x, np.array([[2], [0]]), numbers, (x.shape[0], 2, 5, 3))


PLACES = {
    "rows": lambda x: x[:, np.array([2, 0, 2])],
    "channels": lambda x: jnp.take(x, np.array([2, 0]), axis=-1),
    "a matrix of rows": lambda x: x[:, np.array([[2, 0], [1, 3], [3, 3]])],
    "pixels": lambda x: x[:, np.array([2, 0]), np.array([1, 4])],
    "numbers": lambda x: x[:, np.array([2, 0]), np.array([1, 4]), np.array([0, 2])],
    "rows that are moved": lambda x: x.swapaxes(1, 2)[:, :, np.array([3, 1])],
    "windows": windows,
}


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("name", PLACES)
def test_numbers_are_taken_from_their_places(name: str, open_batch: bool):
    plan = planned(lambda p, x: PLACES[name](x), SHAPE)
    assert "gather" in {op.name for op in plan.program.ops}
    x = X if open_batch else X[:2]
    found = translated(plan, Plain(), x, open_batch=open_batch)
    np.testing.assert_array_equal(found, in_pairs(PLACES[name], x))


def test_places_before_the_batch_need_a_fixed_one():
    def rows_first(x):
        numbers = lax.GatherDimensionNumbers((1, 2, 3), (1,), (1,))
        return lax.gather(x, np.array([[2], [0], [3]]), numbers, (2, 1, 5, 3))

    plan = planned(lambda p, x: rows_first(x), SHAPE)
    with pytest.raises(
        ValueError, match="onnx: it moves the batch .*'gather' in the model.*batch=1"
    ):
        translated(plan, Plain(), X, open_batch=True)
    found = translated(plan, Plain(), X[:2], open_batch=False)
    np.testing.assert_array_equal(found, rows_first(X[:2]))


@pytest.mark.parametrize("open_batch", [False, True])
def test_places_that_come_before_the_batch_are_refused_by_both(open_batch: bool):
    """Indices on both sides of a slice come first, as NumPy has it."""
    plan = planned(lambda p, x: x[:, np.array([2, 0]), :, np.array([1, 2])], SHAPE)
    with pytest.raises(ValueError, match=r"it moves the batch .*: leave the batch the first axis"):
        translated(plan, Plain(), X[:2], open_batch=open_batch)


def thirds(x: jax.Array) -> jax.Array:
    """A choice among three."""
    which = np.broadcast_to(np.arange(5, dtype=np.int32)[:, None] % 3, SHAPE)
    return lax.select_n(which, x, x[:, ::-1], -x[:, :, ::-1])


CHOICES = {
    "of two tensors": lambda x: jnp.where(CHECKERS, x, x[:, ::-1]),
    "of a tensor and a number": lambda x: jnp.where(CHECKERS, x, 0.25),
    "of a number and a tensor": lambda x: jnp.where(CHECKERS[..., :1], 0.25, x),
    "of a tensor and a table": lambda x: jnp.where(CHECKERS, x, jnp.asarray(OTHER)),
    "of one answer": lambda x: lax.select_n(np.array(True), x, x[:, ::-1]),
    "of what is moved": lambda x: jnp.where(
        CHECKERS.transpose(0, 3, 1, 2), x.transpose(0, 3, 1, 2), 0.5
    ),
}


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("name", CHOICES)
def test_a_mask_chooses(name: str, open_batch: bool):
    plan = planned(lambda p, x: CHOICES[name](x), SHAPE)
    (group,) = (group for group in plan.groups if isinstance(group, Select))
    x = X if open_batch else X[:2]
    constants = {
        (group.name, position): value.value
        for position, value in enumerate(group.inputs)
        if plan.is_constant(value)
    }
    found = translated(plan, Plain(constants), x, open_batch=open_batch)
    np.testing.assert_array_equal(found, in_pairs(CHOICES[name], x))


@pytest.mark.parametrize("open_batch", [False, True])
def test_a_mask_counts_from_0(open_batch: bool):
    x = X if open_batch else X[:2]
    plan = inland(lambda p, x: thirds(x), (2, 3, 4, 5))
    found = translated(plan, Plain(), np.moveaxis(x, -1, 1), open_batch=open_batch)
    np.testing.assert_array_equal(found, in_pairs(thirds, x))


def test_a_mask_that_differs_along_the_batch_needs_a_fixed_one():
    mask = np.arange(2).reshape(2, 1, 1, 1) == np.zeros(SHAPE)

    def function(x):
        return jnp.where(mask, x, x[:, ::-1])

    plan = planned(lambda p, x: function(x), SHAPE)
    with pytest.raises(
        ValueError, match="its constant differs along the batch .*'select_n' in the model.*batch=1"
    ):
        translated(plan, Plain(), X, open_batch=True)
    found = translated(plan, Plain(), X[:2], open_batch=False)
    np.testing.assert_array_equal(found, function(X[:2]))


TABLE = RNG.normal(size=(11, 3)).astype(np.float32)
EMBEDDING = {"params": {"table": TABLE}}
MODEL = model_that(lambda params, tokens: jnp.take(params["table"], tokens, axis=0))
TOKENS = np.array([[0, 10, 3, 7], [5, 5, 10, 0]], np.int32)
OUTSIDE = np.array([[-5, 99, 3, 7], [5, 5, 11, -1]], np.int32)


@pytest.mark.parametrize("open_batch", [False, True])
def test_rows_of_a_table_are_read_and_numbers_outside_read_its_ends(open_batch: bool):
    content, _ = onnx_file(make_plan(MODEL, EMBEDDING, TOKENS), EMBEDDING, open_batch=open_batch)
    run = onnx_predict(content)
    for tokens in (TOKENS, OUTSIDE):
        np.testing.assert_array_equal(run(tokens), TABLE[TOKENS])
    np.testing.assert_array_equal(run(np.tile(TOKENS, (2, 1))[:3]), TABLE[TOKENS[[0, 1, 0]]])


def test_a_table_of_integers_is_read_as_it_is_frozen():
    twin = quantize(MODEL)
    variables = calibrate(twin, EMBEDDING, [TOKENS])
    plan = make_plan(twin, variables, TOKENS)
    frozen = freeze(plan, variables)
    content, compared = onnx_file(plan, frozen)
    (table,) = frozen.constants.values()
    assert compared.constant_integers == TABLE.size
    run = onnx_predict(content)
    for tokens in (TOKENS, OUTSIDE):
        np.testing.assert_array_equal(run(tokens), table.float_values[TOKENS])


def test_a_net_of_numbers_at_known_places(tmp_path: Path):
    artifact = artifact_of(Places(), integer=False)
    path = onnx(artifact, tmp_path / "net.onnx").path
    expected = np.asarray(predict(artifact)(IMAGES))
    for answers in (onnx_predict(path)(IMAGES), onnx_predict(path, optimized=False)(IMAGES)):
        assert np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max()
    plan, frozen = integer_form(artifact_of(Places(), integer=True), 8)
    for group, steps in deviations(plan, frozen, IMAGES[:8]):
        # XNNPACK rounds each step of a mean to float32, as the simulation does: ties fall otherwise.
        assert steps.max() <= isinstance(group, Mean), group.name
