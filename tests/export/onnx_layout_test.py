"""ONNX layout: axes are followed through every order; the batch is left open, or that is refused."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.compress.quantize.program import Op
from jaxmini.export.onnx_layout import (
    Tensor,
    Writer,
    as_in_jax,
    channels_first,
    refusal,
    without,
)
from tests.export.onnx_graphs import Plain, answers, planned

ORDERS = st.integers(1, 4).flatmap(lambda rank: st.permutations(range(rank))).map(tuple)
OP = Op("reshape", "Net/head", (), (), None, {})


def ranged(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


def test_channels_follow_the_batch():
    assert channels_first(4) == (0, 3, 1, 2)
    assert channels_first(2) == as_in_jax(2) == (0, 1)
    value = ranged((2, 3, 5, 7))
    assert value.transpose(channels_first(4)).shape == (2, 7, 3, 5)


@given(ORDERS)
def test_an_axis_is_found_where_it_lies(order):
    """As NumPy transposes."""
    value = ranged((2, 3, 5, 7)[: len(order)])
    tensor = Tensor("t", order, "site")
    file = value.transpose(order)
    assert [file.shape[axis] for axis in tensor.axes(range(len(order)))] == list(value.shape)
    assert tensor.sorted(value.shape) == list(file.shape)
    back = tensor.axes(as_in_jax(len(order)))
    np.testing.assert_array_equal(file.transpose(back), value)


@given(ORDERS, st.sets(st.integers(0, 3)))
def test_what_is_left_without_some_axes(order, axes):
    axes = sorted(axis for axis in axes if axis < len(order))
    value = ranged((2, 3, 5, 7)[: len(order)])
    file = value.transpose(order).sum(tuple(order.index(axis) for axis in axes))
    np.testing.assert_array_equal(file, value.sum(tuple(axes)).transpose(without(order, axes)))


def writer(*, open_batch: bool = False, constants=None, shape=(2, 3, 4)) -> Writer:
    return Writer(planned(lambda p, x: x, shape), Plain(constants), open_batch=open_batch)


def image(rank: int = 3) -> Tensor:
    return Tensor("image", as_in_jax(rank), "input")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_tensor_is_transposed_there_and_back_again(order):
    made, x = writer(), ranged((2, 3, 4))
    there = made.arranged(image(), order)
    assert there.order == order
    np.testing.assert_array_equal(answers(made, there, x, x.shape), x)


def test_it_is_transposed_once_whoever_asks():
    made = writer()
    first, second = (made.arranged(image(), (0, 2, 1)) for _ in range(2))
    assert first == second
    assert made.arranged(first, (0, 2, 1)) is first
    assert made.arranged(image(), (1, 0, 2)) != first
    assert made.graph.node("Transpose", "image", perm=(0, 1, 2)) == "Transpose_2"  # the third


@pytest.mark.parametrize("open_batch", [False, True])
def test_a_reshape_is_of_jaxs_axes_and_keeps_an_open_batch(open_batch: bool):
    made = writer(open_batch=open_batch)
    tensor = made.arranged(image(), (0, 2, 1))
    assert made.reshaped(OP, tensor, (2, 3, 4), (2, 3, 4)) is tensor
    flat = made.reshaped(OP, tensor, (2, 3, 4), (2, 6, 2))
    x = ranged((5 if open_batch else 2, 3, 4))
    found = answers(made, flat, x, (2, 6, 2))
    np.testing.assert_array_equal(found, x.reshape(len(x), 6, 2))


def test_what_changes_an_open_batch_is_refused_with_its_module():
    with pytest.raises(
        ValueError,
        match=r"onnx: it mixes the batch with other axes \('reshape' in the module Net/head\): .*=1",
    ):
        writer(open_batch=True).reshaped(OP, image(), (2, 3, 4), (6, 4))
    flat = writer().reshaped(OP, image(), (2, 3, 4), (6, 4))
    assert flat.order == (0, 1)
    assert "in the model)" in str(refusal(Op("sin", "", (), (), None, {}), "odd", "leave it"))


TABLE = ranged((1, 3, 4))
ADDED = planned(lambda p, x: x + jnp.asarray(TABLE), (2, 3, 4))


def constant(values: np.ndarray, order, *, open_batch: bool) -> np.ndarray:
    (group,) = ADDED.groups
    made = Writer(ADDED, Plain({(group.name, 1): values}), open_batch=open_batch)
    made.constant(group, 1, order)
    ((_, stored),) = made.graph._arrays
    return stored


def test_a_constant_has_the_order_of_what_it_stands_beside():
    for order in itertools.permutations(range(3)):
        stored = constant(TABLE, order, open_batch=False)
        assert stored.flags.c_contiguous
        whole = np.broadcast_to(TABLE, ADDED.program.shape(ADDED.groups[0].inputs[1]))
        np.testing.assert_array_equal(stored, whole.transpose(order))


def test_a_constant_of_an_open_batch_is_one_row_of_it():
    np.testing.assert_array_equal(constant(TABLE, (0, 2, 1), open_batch=True), TABLE.swapaxes(1, 2))
    plan = planned(lambda p, x: x + jnp.asarray(ranged((2, 3, 4))), (2, 3, 4))
    (group,) = plan.groups
    made = Writer(plan, Plain({(group.name, 1): ranged((2, 3, 4))}), open_batch=True)
    with pytest.raises(ValueError, match="its constant differs along the batch"):
        made.constant(group, 1, (0, 1, 2))
    # A number has no axes to arrange.
    border = Writer(plan, Plain({(group.name, 1): np.float32(3)}), open_batch=True)
    border.constant(group, 1, ())
    assert border.graph._arrays[0][1] == 3
