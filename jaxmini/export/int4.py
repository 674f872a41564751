"""int4: kernels of at most four bits stored two to a byte, where every interpreter computes with them.

The integers are the same; what changes is where they lie in the file, and which kernels run them.
"""

from collections.abc import Mapping

import numpy as np

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.packing import PACKED_BITS as BITS
from jaxmini.compress.quantize.packing import is_packable
from jaxmini.compress.quantize.plan import Plan, Weighted
from jaxmini.export import editing, flatbuffer
from jaxmini.export.correspondence import correspond

# The first version of each operator that takes an int4 kernel. DEPTHWISE_CONV_2D has one (7) that LiteRT's
# reference kernels do not know: its kernels stay int8.
VERSIONS: Mapping[str, int] = {"CONV_2D": 7, "FULLY_CONNECTED": 10}
KERNEL = 1  # which input of an operator the kernel is


def packed(content: bytes, plan: Plan, frozen: Frozen) -> bytes:
    """The file with every kernel of at most four bits stored as int4, where its operator takes one.

    Args:
        content: the bytes of an int8 file of one subgraph.
        plan: for the file's batch.
        frozen: the integers it holds.

    Raises:
        ValueError: the network has no kernel that can be stored so.
    """
    file = flatbuffer.read(content)
    narrow, wide = _sorted_kernels(file, plan, frozen)
    if not narrow - wide:
        raise ValueError(
            "int4: no CONV_2D or FULLY_CONNECTED of the network has a kernel of at most 4 bits; quantize "
            "it with quantize.int8(kernel=quantize.per_channel(bits=4)), or export it without int4"
        )
    model = flatbuffer.load(bytearray(content))
    graph = model.subgraphs[0]
    for index in sorted(narrow - wide):
        editing.store(model, graph.tensors[index], pack(file.tensors[index].data).tobytes())
        graph.tensors[index].type = editing.INT4
    for op, read in zip(graph.operators, file.ops, strict=True):
        if len(read.inputs) > KERNEL and read.inputs[KERNEL] in narrow - wide:
            editing.require_version(model, op, VERSIONS[read.name])
    return flatbuffer.dump(model)


def storage(file: flatbuffer.File, plan: Plan, frozen: Frozen) -> dict[str, str]:
    """How a file stores the kernel of each group, ``int4`` or ``int8``, by the group's name."""
    return {
        group.name: "int4" if file.tensors[op.inputs[KERNEL]].bits == BITS else "int8"
        for group, op in correspond(file, plan, frozen).pairs
        if isinstance(group, Weighted) and op is not None
    }


def pack(integers: np.ndarray) -> np.ndarray:
    """Integers -8..7 of any shape, row by row, two to a byte and the first in its lower half; uint8 [n]."""
    flat = np.ravel(integers).astype(np.int8)
    if flat.size and not (flat.min() >= -8 and flat.max() <= 7):
        raise ValueError(
            f"pack: integers {flat.min()}..{flat.max()} do not fit 4 bits, which hold -8..7"
        )
    halves = np.append(flat, np.zeros(flat.size % 2, np.int8)).view(np.uint8) & 15
    return halves[::2] | (halves[1::2] << 4)


def _sorted_kernels(file: flatbuffer.File, plan: Plan, frozen: Frozen) -> tuple[set, set]:
    """The kernels that could be int4, and those that some reader needs as they are, by tensor."""
    narrow = {
        op.inputs[KERNEL]
        for group, op in correspond(file, plan, frozen).pairs
        if isinstance(group, Weighted)
        and op is not None
        and is_packable(plan, group)
        and frozen.kernels[group.name].bits <= BITS
    }
    wide = {
        index
        for op in file.ops
        for position, index in enumerate(op.inputs)
        if op.name not in VERSIONS or position != KERNEL
    }
    return narrow, wide
