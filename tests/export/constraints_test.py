import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from jaxmini.export import ConstraintError, Exported
from jaxmini.export.constraints import check_integer
from jaxmini.export.flatbuffer import File, Op, Tensor


def tensor(name: str, *shape: int, scale: float = 0.1, zero_point: int = 3) -> Tensor:
    return Tensor(
        name,
        shape,
        np.dtype(np.int8),
        np.array([scale], np.float32),
        np.array([zero_point]),
        0,
        None,
    )


def weights(**changes: object) -> Tensor:
    data = np.ones((4, 1, 1, 2), np.int8)
    scale, zero = np.full(4, 0.5, np.float32), np.zeros(4, np.int64)
    return dataclasses.replace(
        Tensor("kernel", data.shape, data.dtype, scale, zero, 0, data), **changes
    )


def bias(**changes: object) -> Tensor:
    scale = np.full(4, np.float32(0.1) * np.float32(0.5), np.float32)
    return dataclasses.replace(
        Tensor(
            "bias", (4,), np.dtype(np.int32), scale, np.zeros(4, np.int64), 0, np.ones(4, np.int32)
        ),
        **changes,
    )


def file(name: str, *tensors: Tensor) -> File:
    """One operator that reads all tensors but the last and writes the last."""
    last = len(tensors) - 1
    return File(tensors, (Op(name, tuple(range(last)), (last,)),), (0,), (last,), {}, 0)


def convolution(kernel: Tensor, shift: Tensor) -> File:
    return file("CONV_2D", tensor("x", 1, 2, 2, 2), kernel, shift, tensor("y", 1, 2, 2, 4))


X, Y = tensor("x", 1, 4), tensor("y", 1, 4, scale=0.2)
GOOD = [
    convolution(weights(), bias()),
    convolution(weights(scale=np.array([0.5], np.float32), zero_point=np.zeros(1, np.int64)),
                bias(scale=np.array([0.05], np.float32), zero_point=np.zeros(1, np.int64))),
    file("ADD", X, Y, tensor("z", 1, 4, scale=0.7)),
    file("RESHAPE", X, tensor("y", 4)),
    file("SOFTMAX", X, tensor("y", 1, 4, scale=1 / 256, zero_point=-128)),
]  # fmt: skip


@pytest.mark.parametrize("good", GOOD, ids=lambda f: f.ops[0].name)
def test_right_files_pass(good: File):
    check_integer(good)


FLOAT = dataclasses.replace(X, dtype=np.dtype(np.float32))
BAD = [
    (file("SUM", X, Y), "SUM is not allowed: its int8 reference kernel returns wrong numbers"),
    (file("QUANTIZE", X, Y), "rounds once more"),
    (file("DEQUANTIZE", X, FLOAT), "an annotation is missing"),
    (file("EXP", X, Y), "EXP is not allowed"),
    (file("ADD", FLOAT, Y, X), "tensor 'x' is float32"),
    (file("ADD", tensor("x", 1, scale=-1.0), Y, X), "not positive"),
    (
        file("ADD", dataclasses.replace(X, scale=np.zeros(0), zero_point=np.zeros(0)), Y, X),
        "int8 without a scale",
    ),
    (file("RESHAPE", X, Y), "lie on different grids"),
    (file("CONCATENATION", X, Y, X), "lie on different grids"),
    (file("SOFTMAX", X, Y), "the kernels take"),
    (convolution(weights(data=np.full((4, 1, 1, 2), -128, np.int8)), bias()), "-128"),
    (convolution(weights(zero_point=np.ones(4, int)), bias()), "zero point other than 0"),
    (convolution(weights(axis=3), bias()), "expected axis 0"),
    (convolution(dataclasses.replace(weights(), data=None), bias()), "not stored"),
    (convolution(weights(), bias(dtype=np.dtype(np.int64))), "bias is int64"),
    (
        convolution(weights(), bias(scale=np.full(4, 0.06, np.float32))),
        "input scale \\* kernel scale",
    ),
    (convolution(weights(), bias(zero_point=np.ones(4, int))), "bias has a zero point"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[message for _, message in BAD])
def test_broken_rules_are_named(bad: File, message: str):
    with pytest.raises(ConstraintError, match=message):
        check_integer(bad)


def test_all_broken_rules_are_listed():
    bad = dataclasses.replace(BAD[0][0], ops=(Op("SUM", (0,), (1,)), Op("EXP", (0,), (1,))))
    with pytest.raises(ConstraintError, match=r"(?s)operator 0 SUM.*operator 1 EXP"):
        check_integer(bad)


def test_a_float_file_is_not_an_integer_one(convert: Callable[[str, str], Exported]):
    with pytest.raises(ConstraintError, match="float32"):
        check_integer(convert("float32", "litert").path)


def test_an_exported_integer_file_is(integer_bytes: bytes):
    check_integer(integer_bytes)


def asking(*names: str, ends: str = "bool", of: str = "int32") -> File:
    """Operators one after the other on the tokens, then a lookup; the last of them leaves ``ends``."""
    kinds = [of, *["bool"] * (len(names) - 1), ends]
    asked = [dataclasses.replace(X, dtype=np.dtype(kind), scale=np.zeros(0)) for kind in kinds]
    table = dataclasses.replace(X, shape=(2,), data=np.int8([-127, 0]))
    tensors = (*asked, table, X)
    ops = [Op(name, (place,), (place + 1,)) for place, name in enumerate(names)]
    last = Op("GATHER", (len(kinds), len(names)), (len(kinds) + 1,))
    return File(tensors, (*ops, last), (0,), (len(kinds) + 1,), {}, 0)


def test_tokens_may_be_asked_and_their_answers_looked_up():
    check_integer(asking("NOT_EQUAL", "LOGICAL_NOT", "BROADCAST_TO", "CAST", ends="int32"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (asking("NOT_EQUAL", "CAST", ends="float32"), "operator 1 CAST is not allowed"),
        (asking("CUMSUM", ends="int32"), "CUMSUM is not allowed"),
        (asking("NOT_EQUAL", "CAST", ends="int32", of="int8"), "NOT_EQUAL is not allowed"),
    ],
)
def test_nothing_else_may_be_made_of_them(bad: File, message: str):
    with pytest.raises(ConstraintError, match=message):
        check_integer(bad)
