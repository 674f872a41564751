"""ONNX graph: nodes and stored arrays gathered one after the other, and the model they make.

It knows names and numbers, and nothing of networks. Node and tensor names are those of the plan's groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Opset 17 (ONNX 1.12, 2022) with its IR version: DequantizeLinear with one scale a channel is older, and
# every runtime of the last years reads it.
OPSET, IR_VERSION = 17, 8


class Graph:
    """Nodes in an order in which they can run, and the arrays they read.

    Attributes:
        scope: what the names of new nodes start with.
    """

    def __init__(self) -> None:
        self.scope = ""
        self._nodes: list[Any] = []
        self._stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._arrays: list[tuple[str, np.ndarray]] = []
        self._names: dict[str, int] = {}

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output; the output's name."""
        (output,) = self.nodes(op, *inputs, outputs=1, **attributes)
        return output

    def nodes(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Append a node of several outputs; their names."""
        from onnx import helper

        name = self._unique(f"{self.scope}/{op}" if self.scope else op)
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, names, name=name, **attributes))
        return tuple(names)

    def array(self, name: str, values: np.ndarray) -> str:
        """Store an array; its name. An array that is stored already keeps the name it has."""
        values = np.asarray(values)
        key = values.dtype.str, values.shape, values.tobytes()
        if key not in self._stored:
            self._stored[key] = self._unique(f"{self.scope}/{name}" if self.scope else name)
            self._arrays.append((self._stored[key], values))
        return self._stored[key]

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Store axes, sizes or the like: int64 [N]."""
        return self.array(name, np.asarray(values, np.int64))

    def model(self, image: Any, logits: Any, output: str, about: Mapping[str, str]) -> Any:
        """The checked ``ModelProto`` of all that was gathered.

        Args:
            image, logits: the input and the output, ``ValueInfoProto``.
            output: the tensor that is the output; it gets the output's name.
            about: the model's metadata.
        """
        import onnx
        from onnx import helper, numpy_helper

        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [logits.name if name == output else name for name in names]
        arrays = [numpy_helper.from_array(values, name) for name, values in self._arrays]
        graph = helper.make_graph(self._nodes, "jaxmini", [image], [logits], arrays)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="jaxmini",
        )
        helper.set_model_props(model, dict(about))
        onnx.checker.check_model(model, full_check=True)
        return model

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, -1) + 1
        return f"{name}_{count}" if count else name
