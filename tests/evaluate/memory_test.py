import dataclasses

import numpy as np

from jaxmini.evaluate.memory import peak_bytes
from jaxmini.export.flatbuffer import File, Op, Tensor

NONE = np.array([])


def tensor(*shape: int, dtype: type = np.int8, data: np.ndarray | None = None) -> Tensor:
    return Tensor("t", shape, np.dtype(dtype), NONE, NONE, 0, data)


def file(tensors: list[Tensor], ops: list[Op], inputs: tuple, outputs: tuple) -> File:
    return File(tuple(tensors), tuple(ops), inputs, outputs, {}, 0)


def test_a_residual_block_by_hand():
    weights = np.zeros((8, 3, 3, 8), np.int8)
    tensors = [
        tensor(1, 4, 4, 3),  # 0: the input, 48 bytes
        tensor(1, 4, 4, 8),  # 1: 128
        tensor(1, 4, 4, 16),  # 2: 256
        tensor(1, 4, 4, 8),  # 3: 128
        tensor(1, 4, 4, 8),  # 4: 128
        tensor(1, 8),  # 5: 8
        tensor(8, 3, 3, 8, data=weights),
    ]
    ops = [
        Op("CONV_2D", (0, 6), (1,)),  # 48 + 128
        Op("CONV_2D", (1, 6), (2,)),  # 128 + 256
        Op("CONV_2D", (2, 6), (3,)),  # 256 + 128, and 128 of tensor 1, which the sum still reads
        Op("ADD", (1, 3), (4,)),  # 3 * 128
        Op("MEAN", (4,), (5,)),
    ]
    assert peak_bytes(file(tensors, ops, (0,), (5,))) == 512


def test_the_size_is_that_of_the_dtype_and_the_output_stays():
    tensors = [tensor(1, 10, dtype=np.float32), tensor(1, 20, dtype=np.float32), tensor(1, 5)]
    ops = [Op("FULLY_CONNECTED", (0,), (1,)), Op("QUANTIZE", (0,), (2,))]
    assert peak_bytes(file(tensors, ops, (0,), (1, 2))) == 40 + 80 + 5
    assert peak_bytes(file(tensors, ops, (0,), (2,))) == 40 + 80


def test_weights_that_are_expanded_are_no_activations():
    tensors = [
        tensor(1, 10, dtype=np.float32),
        tensor(4, 10, dtype=np.float16, data=np.zeros((4, 10), np.float16)),
        tensor(4, 10, dtype=np.float32),
        tensor(1, 4, dtype=np.float32),
    ]
    ops = [Op("DEQUANTIZE", (1,), (2,)), Op("FULLY_CONNECTED", (0, 2, -1), (3,))]
    assert peak_bytes(file(tensors, ops, (0,), (3,))) == 40 + 16


def test_a_file_that_returns_its_input():
    assert peak_bytes(file([tensor(1, 7)], [], (0,), (0,))) == 7


def test_what_subgraphs_need_stands_beside_the_operator_that_runs_them():
    def part(size: int, *ops: Op) -> File:
        return file([tensor(size), tensor(size)], list(ops), (0,), (1,))

    abs_, calls = Op("ABS", (0,), (1,)), Op("IF", (0,), (1,), calls=(1, 2))
    inner = {1: part(5, abs_), 2: part(30, Op("CALL", (0,), (1,), calls=(3,))), 3: part(7, abs_)}
    whole = file([tensor(100), tensor(10), tensor(90)], [], (0,), (2,))
    whole = dataclasses.replace(whole, ops=(calls, Op("PAD", (1,), (2,))), called=inner)
    assert peak_bytes(whole) == 100 + 10 + 2 * 30 + 2 * 7
