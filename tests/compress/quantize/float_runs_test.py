"""Float runs: every operation is in one group, and what lies between kernels is run as written."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from quantize_nets import start

from jaxmini.compress.quantize.float_runs import group_kernels
from jaxmini.compress.quantize.islands import float_island
from jaxmini.compress.quantize.plan import Weighted
from jaxmini.compress.quantize.program import trace
from jaxmini.compress.quantize.subgraph import FloatRun
from jaxmini.model import from_linen


class Split(nn.Module):
    """A run that leaves two values, and one that reads both again."""

    @nn.compact
    def __call__(self, x):
        a, b = jnp.split(jnp.tanh(nn.Dense(6, name="first")(x)), 2, -1)
        return nn.Dense(2, name="left")(a) * nn.Dense(2, name="right")(b)


X = jnp.ones((2, 4))


def program():
    model = from_linen(Split())
    return trace(model, start(model, X), jax.ShapeDtypeStruct(X.shape, X.dtype))


def test_runs_lie_between_kernels():
    plan = group_kernels(program())
    assert [group.name for group in plan.groups] == [
        "Split/first:dense",
        "Split:float",
        "Split/left:dense",
        "Split/right:dense",
        "Split:float_1",
    ]
    runs = [group for group in plan.groups if isinstance(group, FloatRun)]
    assert [len(run.outputs) for run in runs] == [2, 1]
    assert len(plan.weighted) == 3
    assert (plan.sites, plan.fixed, plan.ties) == ((), {}, {})


def test_kept_modules_are_part_of_runs():
    plan = group_kernels(program(), [float_island("left")])
    assert [g.name for g in plan.groups if isinstance(g, Weighted)] == [
        "Split/first:dense",
        "Split/right:dense",
    ]
    with pytest.raises(ValueError, match="matches no module with a kernel; near it: left"):
        group_kernels(program(), [float_island("lift")])
