"""Correspondence: operators find their groups along the data, in files written by hand."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.compress.quantize import Frozen, Grid, Plan, make_plan, quant_point
from jaxmini.compress.quantize.frozen import FrozenKernel
from jaxmini.compress.quantize.plan import Mean
from jaxmini.export.correspondence import COMPUTING, correspond, kernel_of
from jaxmini.export.flatbuffer import File, Op, Tensor
from jaxmini.model import Model

NONE = np.zeros(0, np.float32)


def planned(function: Callable, shape: tuple[int, ...], **shapes: tuple[int, ...]) -> Plan:
    model = Model(
        init=lambda key, inputs: {},
        apply=lambda variables, inputs, **_: (function(variables["params"], inputs), {}),
    )
    params = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}
    return make_plan(model, {"params": params}, jax.ShapeDtypeStruct(shape, jnp.float32))


def tensor(data: np.ndarray | None = None) -> Tensor:
    shape = (1,) if data is None else data.shape
    return Tensor("", shape, np.dtype(np.int8), NONE, NONE, axis=0, data=data)


def file(*ops: Op, output: int, **constants: np.ndarray) -> File:
    """Tensor 0 is the input; those of constants are named ``t<index>``."""
    stored = {int(name[1:]): array for name, array in constants.items()}
    count = 1 + max(max((*op.inputs, *op.outputs)) for op in ops)
    tensors = tuple(tensor(stored.get(index)) for index in range(count))
    return File(tensors, ops, (0,), (output,), {}, 0)


def frozen(**kernels: np.ndarray) -> Frozen:
    """By the group's label; integers [K, O]."""
    ones = np.ones(1, np.float32)
    made = {
        f":{name}": FrozenKernel(kernel, ones, ones.astype(np.int32), ones)
        for name, kernel in kernels.items()
    }
    return Frozen({}, made, {})


def dense(source: int, kernel: int, result: int) -> Op:
    return Op("FULLY_CONNECTED", (source, kernel, -1), (result,))


RNG = np.random.default_rng(0)
A, B = (RNG.integers(-127, 128, (4, 3)).astype(np.int8) for _ in range(2))
BRANCHES = planned(
    lambda p, x: jnp.concatenate([x @ p["a"], x @ p["b"]], -1), (1, 4), a=(4, 3), b=(4, 3)
)
KERNELS = frozen(dense=A, dense_1=B)


def test_a_kernel_has_its_channels_last():
    stored = file(dense(0, 1, 2), output=2, t1=A.T)
    np.testing.assert_array_equal(kernel_of(stored, stored.ops[0]), A)


def branches(first: np.ndarray, second: np.ndarray, joined: tuple[int, int] = (2, 4)) -> File:
    """Two products, the first stored before the second, and what they are joined to."""
    ops = dense(0, 1, 2), dense(0, 3, 4), Op("CONCATENATION", joined, (5,))
    return file(*ops, output=5, t1=first.T, t3=second.T)


def test_parallel_branches_are_told_apart_by_their_kernels():
    """Whichever is stored first."""
    for stored, where in ((branches(A, B), (2, 4)), (branches(B, A, (4, 2)), (4, 2))):
        found = correspond(stored, BRANCHES, KERNELS)
        assert [(group.name, op.outputs) for group, op in found.pairs] == [
            (":dense", where[:1]),
            (":dense_1", where[1:]),
        ]
        assert found.output_agrees
        assert found.extra == []
        assert found.operands == {":dense": (0,), ":dense_1": (0,)}


def test_branches_that_were_exchanged_are_joined_in_another_order():
    assert not correspond(branches(A, B, (4, 2)), BRANCHES, KERNELS).output_agrees


def test_a_changed_kernel_still_finds_its_operator():
    """So that the difference can be told."""
    odd = A.copy()
    odd[0, 0] ^= 1
    found = correspond(branches(odd, B), BRANCHES, KERNELS)
    assert [op.outputs for _, op in found.pairs] == [(2,), (4,)]
    assert found.output_agrees


def test_a_kernel_of_another_size_is_another_layer():
    found = correspond(branches(A[:2], B), BRANCHES, KERNELS)
    assert [op and op.outputs for _, op in found.pairs] == [(4,), (2,)]


def test_moves_are_looked_through_and_computing_is_not():
    plan = planned(lambda p, x: x.reshape(1, 4) @ p["a"], (1, 2, 2), a=(4, 3))
    ops = Op("RESHAPE", (0, 1), (2,)), Op("TRANSPOSE", (2, 1), (3,)), dense(3, 4, 5)
    stored = {"t1": np.int32([0]), "t4": A.T}
    found = correspond(file(*ops, output=5, **stored), plan, frozen(dense=A))
    ((group, op),) = found.pairs
    assert (group.name, op.outputs) == (":dense", (5,))
    assert found.operands == {":dense": (3,)}  # the tensor it reads, not where that came from
    assert found.output_agrees
    between = Op("RESHAPE", (0, 1), (2,)), Op("RELU", (2,), (3,)), dense(3, 4, 5)
    found = correspond(file(*between, output=5, **stored), plan, frozen(dense=A))
    assert [op for _, op in found.pairs] == [None]
    assert [op.name for op in found.extra] == ["RELU", "FULLY_CONNECTED"]
    assert not found.output_agrees


SUM = planned(lambda p, x: x @ p["a"] - jnp.tanh(x @ p["b"]), (1, 4), a=(4, 3), b=(4, 3))


def test_a_converter_may_swap_operands():
    """They are listed as the group has them."""
    products = dense(0, 1, 2), dense(0, 3, 4), Op("TANH", (4,), (5,))
    for operands in ((2, 5), (5, 2)):
        stored = file(*products, Op("SUB", operands, (6,)), output=6, t1=A.T, t3=B.T)
        found = correspond(stored, SUM, KERNELS)
        names = ["FULLY_CONNECTED", "FULLY_CONNECTED", "TANH", "SUB"]
        assert [op.name for _, op in found.pairs] == names
        assert found.operands[":sub"] == (2, 5)


def test_a_function_is_its_own_operator_only():
    products = dense(0, 1, 2), dense(0, 3, 4), Op("LOGISTIC", (4,), (5,))
    stored = file(*products, Op("SUB", (2, 5), (6,)), output=6, t1=A.T, t3=B.T)
    found = correspond(stored, SUM, KERNELS)
    assert [op and op.name for _, op in found.pairs][2:] == [None, None]
    assert [op.name for op in found.extra] == ["LOGISTIC", "SUB"]


def test_the_mean_of_one_number_may_be_a_move():
    plan = planned(lambda p, x: x.mean(1) @ p["a"], (1, 1, 4), a=(4, 3))
    assert any(isinstance(group, Mean) and group.count == 1 for group in plan.groups)
    stored = file(Op("RESHAPE", (0, 1), (2,)), dense(2, 3, 4), output=4, t1=np.int32([0]), t3=A.T)
    found = correspond(stored, plan, frozen(dense=A))
    assert [group.name for group, _ in found.pairs] == [":dense"]
    assert found.output_agrees


def test_a_choice_names_what_it_takes_in_the_order_of_the_file():
    """SELECT has what it takes where the mask is true first, select_n of JAX last."""
    kept = np.arange(12).reshape(1, 3, 4) % 3 == 0
    plan = planned(lambda p, x: jnp.where(kept, jax.nn.gelu(x), jax.nn.hard_swish(x)), (1, 3, 4))
    ops = Op("GELU", (0,), (1,)), Op("HARD_SWISH", (0,), (2,))
    right = file(*ops, Op("SELECT_V2", (3, 1, 2), (4,)), output=4, t3=kept.astype(np.int8))
    wrong = file(*ops, Op("SELECT_V2", (3, 2, 1), (4,)), output=4, t3=kept.astype(np.int8))
    assert correspond(right, plan, frozen()).output_agrees
    assert not correspond(wrong, plan, frozen()).output_agrees


def test_no_operator_both_computes_and_moves():
    assert not COMPUTING & {
        "RESHAPE",
        "TRANSPOSE",
        "CONCATENATION",
        "PAD",
        "SELECT_V2",
        "GATHER_ND",
    }


MARKED = Frozen({"/here:dense": Grid(0.1, 3)}, {"/here:dense": KERNELS.kernels[":dense"]}, {})


def rectified(activation: str, *, seen: bool = False) -> tuple[Plan, File]:
    """A rectifier behind a point, and a file whose product has one fused; ``seen``: others read the point."""

    def function(p, x):
        y = quant_point(x @ p["a"], "here")
        return jax.nn.relu(y) - y if seen else jax.nn.relu(y)

    product = Op("FULLY_CONNECTED", (0, 1, -1), (2,), activation)
    last = [Op("SUB", (2, 2), (3,))] * seen
    return planned(function, (1, 4), a=(4, 3)), file(*[product, *last], output=2 + seen, t1=A.T)


def test_a_rectifier_may_be_in_the_operator_before_it():
    plan, stored = rectified("RELU")
    names = [group.name for group in plan.groups]
    found = correspond(stored, plan, MARKED)
    assert [(group.name, op.name) for group, op in found.pairs] == [(names[0], "FULLY_CONNECTED")]
    assert {name: group.name for name, group in found.rectified.items()} == {names[0]: names[1]}
    assert found.output_agrees
    assert not found.extra


@pytest.mark.parametrize(("activation", "seen"), [("NONE", False), ("RELU", True)])
def test_a_rectifier_is_missed_where_none_is_fused_or_others_read_what_is_before_it(
    activation: str, seen: bool
):
    plan, stored = rectified(activation, seen=seen)
    found = correspond(stored, plan, MARKED)
    assert [op and op.name for _, op in found.pairs][:2] == ["FULLY_CONNECTED", None]
    assert not found.rectified
