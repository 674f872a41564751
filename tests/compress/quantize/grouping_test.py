"""Grouping: what joins a group and what ends it; sites that are tied, named and shared."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_checks import plan_of
from quantize_functions import alone, grouping_of, op_of
from quantize_nets import pictures

from jaxmini.compress.quantize import Grid
from jaxmini.compress.quantize.plan import Clamp, Move, Weighted


def test_a_rectifier_moves_before_the_pool():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.max_pool(nn.Conv(4, (3, 3))(x), (2, 2), (2, 2)))
            return nn.relu(x.reshape(x.shape[0], -1))

    conv, pool, reshape = plan_of(Net(), pictures()).groups
    assert isinstance(conv, Weighted)
    assert conv.clamp == Clamp()
    assert isinstance(pool, Move)
    assert isinstance(reshape, Move)


def test_a_seen_value_ends_the_group():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Conv(3, (3, 3))(x)
            return (nn.relu(y) + y).mean((1, 2))

    plan = plan_of(Net(), pictures())
    assert [group.name for group in plan.groups] == [
        "Net/Conv_0:conv",
        "Net:relu",
        "Net:add",
        "Net:mean",
    ]
    assert plan.groups[0].clamp is None


def test_a_given_input_grid_cannot_be_tied():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.concatenate([x, nn.Conv(3, (3, 3), name="conv")(x)], -1).mean((1, 2))

    assert plan_of(Net(), pictures()).ties == {"input": ("Net/conv:conv",)}
    with pytest.raises(ValueError, match="Net/conv:conv must share it"):
        plan_of(Net(), pictures(), input_grid=Grid(0.01, 0))


def chain(params, x):
    """Affine steps, a move between two rectifiers, and a reader of the last."""
    y = (x @ params["w"] - 1) * params["gamma"][None] / 2
    return -jnp.maximum(jax.nn.relu6(y).reshape(2, 1, 3), 0)


@pytest.fixture
def grouping():
    return grouping_of(chain, w=(4, 3), gamma=(3,))


def test_a_chain_ends_where_a_step_is_not_affine(grouping):
    product = op_of(grouping.program, "dot_general")
    steps, value = grouping.absorb_chain(product.outputs[0], (3,))
    assert [step.name for step in steps] == ["sub", "mul", "div"]
    assert value == op_of(grouping.program, "div").outputs[0]
    assert {value, product.outputs[0]} - grouping.taken == {product.outputs[0]}


def test_rectifiers_are_joined_past_moves_and_their_readers_read_the_move(grouping):
    value = op_of(grouping.program, "div").outputs[0]
    clamp, after = grouping.absorb_clamp(value)
    assert clamp == Clamp(6.0)
    assert after == op_of(grouping.program, "relu6").outputs[0]
    (moved,) = op_of(grouping.program, "reshape").outputs
    (held,) = op_of(grouping.program, "max").outputs
    assert grouping.replaced == {held: moved}
    assert grouping.inputs(op_of(grouping.program, "neg")) == (moved,)
    assert moved not in grouping.taken


def test_a_value_that_is_the_output_or_read_twice_has_no_only_consumer():
    twice = grouping_of(alone(lambda x: jnp.tanh(x) + jnp.sin(x)))
    assert twice.only_consumer(twice.program.input) is None
    assert twice.only_consumer(twice.program.output) is None
    tanh, add = op_of(twice.program, "tanh"), op_of(twice.program, "add")
    assert twice.only_consumer(tanh.outputs[0]) is add
    twice.take(add)
    assert twice.only_consumer(tanh.outputs[0]) is None


def test_a_step_by_another_activation_is_not_affine():
    both = grouping_of(lambda p, x: jnp.tanh(x) * p["w"] + x[:1], (1, 4), w=(1, 4))
    mul, add = op_of(both.program, "mul"), op_of(both.program, "add")
    tanh = op_of(both.program, "tanh").outputs[0]
    assert both.affine(mul, tanh, (4,)).name == "mul"
    assert both.affine(add, mul.outputs[0], (4,)) is None


def test_the_older_of_tied_sites_is_the_root():
    grouping = grouping_of(alone(lambda x: x))
    for value, site in enumerate(("a", "b", "c", "d"), 100):
        grouping.site_of[value] = site
    grouping.tie("c", "b")
    grouping.tie("d", "c")
    assert [grouping.root(site) for site in "abcd"] == ["a", "b", "b", "b"]
    assert grouping.partners("b") == ("c", "d")
    grouping.tie("a", "d")
    assert {grouping.root(site) for site in "abcd"} == {"a"}
    before = dict(grouping.tied)
    grouping.tie("a", "c")
    assert grouping.tied == before


def test_names_are_numbered_where_they_are_taken():
    grouping = grouping_of(alone(jnp.sin))
    op = op_of(grouping.program, "sin")
    assert [grouping.name(op, "relu") for _ in range(3)] == [":relu", ":relu_1", ":relu_2"]
    assert grouping.name(op) == ":sin"


def test_operations_that_are_added_take_part():
    grouping = grouping_of(alone(jnp.sin))
    source = op_of(grouping.program, "sin").outputs[0]
    (result,), new = grouping.emit(lambda x: jnp.cos(x) + 1, [source], "Net/block")
    assert [op.name for op in new] == ["cos", "add"]
    assert {op.path for op in new} == {"Net/block"}
    assert grouping.is_activation(result)
    assert grouping.program.ops[-2:] == tuple(new)


def test_an_identity_leaves_its_readers_to_its_source():
    grouping = grouping_of(alone(lambda x: (lambda y: jnp.sin(y) + y)(jnp.cos(x))))
    sin, cos = op_of(grouping.program, "sin"), op_of(grouping.program, "cos")
    grouping.merge(sin, cos.outputs[0])
    assert grouping.inputs(op_of(grouping.program, "add"))[0] == cos.outputs[0]
    assert sin not in grouping.consumers[cos.outputs[0]]


def test_a_given_grid_that_others_would_share_is_refused():
    grouping = grouping_of(alone(lambda x: jnp.concatenate([x, jnp.tanh(x)], 1)))
    tanh = op_of(grouping.program, "tanh")
    grouping.add(Move("t", "t", (grouping.program.input,), tanh.outputs, tanh))
    grouping.tie("input", "t")
    assert grouping.finish({}).ties == {"input": ("t",)}
    grid = Grid(np.float32(1), np.int32(0))
    assert grouping.finish({"input": grid, "t": grid}).ties == {"input": ("t",)}
    with pytest.raises(ValueError, match="the grid of the input is given, and t must share it"):
        grouping.finish({"input": grid})
    with pytest.raises(ValueError, match="the grid of t is given, and input must share it"):
        grouping.finish({"t": grid})
