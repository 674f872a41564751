"""Subgraph: operations of a program run together as the model wrote them; what goes in and what is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_functions import grouping_of, op_of

from jaxmini.compress.quantize.subgraph import Subgraph, read_by, seen_outside

W = np.float32([[1, -2, 0.5, 3]])


def gated(params, x):
    y = jnp.tanh(x * params["w"])
    return y * jax.nn.sigmoid(y + x)


@pytest.fixture
def grouping():
    return grouping_of(gated, w=(1, 4))


def test_what_operations_read_is_told_apart_from_what_they_compute(grouping):
    program = grouping.program
    (w,) = program.variables
    assert read_by(grouping, program.ops) == ((program.input,), (w,))
    tanh, sigmoid = op_of(program, "tanh"), op_of(program, "logistic")
    assert read_by(grouping, [tanh, sigmoid]) == ((*tanh.inputs, *sigmoid.inputs), ())


def test_what_others_read_is_seen_and_so_is_the_output(grouping):
    program = grouping.program
    assert seen_outside(grouping, program.ops) == (program.output,)
    first, tanh = op_of(program, "mul"), op_of(program, "tanh")
    assert seen_outside(grouping, [first, tanh]) == tanh.outputs
    assert seen_outside(grouping, [first]) == first.outputs
    # Inside, it is read by the others alone.
    assert seen_outside(grouping, [op for op in program.ops if op is not first]) == (
        program.output,
    )


def test_it_runs_as_the_model_wrote_it(grouping):
    program = grouping.program
    reads, held = read_by(grouping, program.ops)
    whole = Subgraph("a", "a", reads, (program.output,), program.ops[-1], program.ops, reads, held)
    assert whole.held == held
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(whole([x], [W]), gated({"w": W}, x), rtol=1e-6)
    with pytest.raises(ValueError, match="zip"):
        whole([x], [])
