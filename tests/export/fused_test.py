"""Fused: what moves numbers and rectifies them is two operators; what computes stays one."""

import numpy as np

from jaxmini.export.flatbuffer import File, Op, Tensor
from jaxmini.export.fused import unfused

NONE = np.zeros(0, np.float32)
TENSORS = tuple(
    Tensor(name, (1, 2), np.dtype(np.int8), NONE, NONE, axis=0, data=None) for name in "abcd"
)


def test_a_rectifier_that_a_move_holds_is_an_operator_behind_it():
    ops = (
        Op("CONV_2D", (0,), (1,), "RELU6"),
        Op("MAX_POOL_2D", (1,), (2,), "RELU"),
        Op("RESHAPE", (2,), (3,)),
    )
    file = File(TENSORS, ops, (0,), (3,), {}, 0)
    found = unfused(file, {"CONV_2D"})
    assert found.ops == (
        ops[0],
        Op("MAX_POOL_2D", (1,), (4,), "NONE"),
        Op("RELU", (4,), (2,)),
        ops[2],
    )
    assert [tensor.name for tensor in found.tensors] == ["a", "b", "c", "d", "c"]
    assert unfused(found, {"CONV_2D"}).ops == found.ops
