"""TFLite-Micro as one more interpreter: what ``interpreter.Interpreter`` asks of LiteRT's, answered by it."""

import numpy as np

from jaxmini.export import arena, micro_operators, run_micro
from jaxmini.export.flatbuffer import File


class MicroInterpreter:
    """TFLite-Micro's interpreter of a file, by the methods and tensor indices of LiteRT's.

    The file is run once in a process of its own first: a damaged one crashes the interpreter, and what it
    says of one that it refuses is written past Python.
    """

    def __init__(self, content: bytes, file: File, where: str, keep_all: bool) -> None:
        if reasons := micro_operators.unknown(file):
            raise arena.MicroError(where, reasons)
        self._file, size = file, arena.roomy(file)
        arena.trial(content, where, size, keep_all, len(file.inputs))
        self._made = run_micro.interpreter(content, size, keep_all)
        self._keeps_all = keep_all

    def set_tensor(self, index: int, numbers: np.ndarray) -> None:
        """Give the input ``index`` its numbers, of its shape and dtype."""
        self._made.set_input(numbers, self._file.inputs.index(index))

    def invoke(self) -> None:
        self._made.invoke()

    def get_tensor(self, index: int) -> np.ndarray:
        """A tensor after ``invoke``: an output, or any if all are kept."""
        if self._keeps_all:
            return self._made.GetTensor(index, 0)["tensor_data"]
        return np.array(self._made.get_output(self._file.outputs.index(index)))
