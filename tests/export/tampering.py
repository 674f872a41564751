"""Edits of a file for tests: what a wrong converter, or a wrong disk, would leave."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxmini.export import flatbuffer


def edited(content: bytes, edit: Callable[[Any, Any], None]) -> bytes:
    """The file after ``edit(model, graph)``."""
    model = flatbuffer.load(bytearray(content))  # of bytes, its arrays would be read only
    edit(model, model.subgraphs[0])
    return flatbuffer.dump(model)


def find(model: Any, name: str, which: int = 0) -> Any:
    """One of the operators of that name."""
    ops = model.subgraphs[0].operators
    return [op for op in ops if flatbuffer.op_name(model, op) == name][which]


def change(model: Any, tensor: Any, index: int, value: int, dtype: type = np.int8) -> None:
    """Set one stored number of a tensor."""
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).copy()
    data.view(dtype)[index] = value
    model.buffers[tensor.buffer].data = data


def set_code(model: Any, op: Any, builtin: int) -> None:
    """Make an operator another one."""
    schema = flatbuffer.schema_module()
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 2
    model.operatorCodes.append(code)
    op.opcodeIndex = len(model.operatorCodes) - 1
