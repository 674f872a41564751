"""ONNX file: a plan and its numbers as a model that says of itself how it is read.

It serves artifacts, and networks that are none, those that read token numbers among them.
"""

import json
from typing import Any

import jax
import numpy as np

from jaxmini.compress.quantize.frozen import Frozen
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.plan import INPUT, Plan
from jaxmini.compress.quantize.stored import floats_of
from jaxmini.export import converter, metadata, onnx_parity
from jaxmini.export import signature as names
from jaxmini.export.onnx_graph import OPSET
from jaxmini.export.onnx_numbers import OFFSET, Floats, Integers, Numbers
from jaxmini.export.onnx_ops import translate
from jaxmini.export.parity import Parity
from jaxmini.model import Variables
from jaxmini.record import Json

BATCH_AXIS = "batch"


def onnx_file(
    plan: Plan, weights: Frozen | Variables, *, open_batch: bool = True
) -> tuple[bytes, Parity | None]:
    """A network as the bytes of an .onnx file, opset 17, and how many numbers of an int8 one were compared.

    For models that are no ``Artifact`` too. Token numbers go in as int32 ``tokens`` [N, T]. Anything else is
    ``image``: float32, the model's own input, or for int8 its integers as uint8, q + 128. Out come float32
    ``logits``.

    Args:
        plan: for at least two examples where ``open_batch``: one could not be told from an axis of size 1.
        weights: the frozen numbers of an int8 file, or the variables of a float32 one.
        open_batch: take any number of examples at a time, or as many as the plan is for.

    Raises:
        ValueError: a plan for one example and an open batch, or an operation that has no form in the file;
            names it and its module.
        ParityError: a number in the int8 file is not the frozen one.
        ImportError: onnx is not installed; names the extra that brings it.
    """
    batch, *shape = plan.program.shape(plan.program.input)
    if open_batch and batch < 2:
        raise ValueError(
            f"onnx_file: an open batch needs a plan for 2 examples or more, and this is for {batch}: make it "
            "for 2, or give open_batch=False"
        )
    frozen = weights if isinstance(weights, Frozen) else None
    about = {
        "input": {"shape": [None if open_batch else batch, *shape]} | _input(plan, frozen),
        "output": output_of(plan, frozen),
        "variant": "float32" if frozen is None else "int8",
        "backend": "onnx",
        "opset": OPSET,
    }
    numbers = Floats(plan, weights, None) if frozen is None else Integers(frozen)
    return written(plan, numbers, frozen, about)


def require_forms(plan: Plan, variables: Variables) -> None:
    """See that a file of an open batch has a form for every operation of a plan, before it is trained.

    Args:
        plan: for at least two examples.
        variables: of its model; only shapes and dtypes are read.

    Raises:
        ValueError: an operation has none; names it, its module, and what to do.
    """
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), floats_of(variables))
    translate(plan, Floats(plan, zeros, None), names.INPUT, open_batch=True)


def written(
    plan: Plan, numbers: Numbers, frozen: Frozen | None, about: dict[str, Json]
) -> tuple[bytes, Parity | None]:
    """The file of a plan; one of frozen numbers is read back and compared.

    Args:
        plan: whose operations are written.
        numbers: how they are written.
        frozen: the integers that an int8 file must hold.
        about: what the file says of itself: its input's and output's names, shapes and dtypes among it.

    Raises:
        ValueError, ParityError, ImportError: as ``onnx_file``.
    """
    converter.require("onnx", "onnx")
    model = _model(plan, numbers, about)
    compared = None if frozen is None else onnx_parity.check(model, plan, frozen)
    return model.SerializeToString(deterministic=True), compared


def output_of(plan: Plan, frozen: Frozen | None) -> dict[str, Json]:
    """What a file says of its logits: their grid, where it is of integers."""
    grid = {} if frozen is None else _grid(frozen.grids[plan.output_site])
    return {"name": names.OUTPUT, "dtype": "float32"} | grid


def _input(plan: Plan, frozen: Frozen | None) -> dict[str, Json]:
    if plan.reads_tokens:
        return {"name": names.TOKENS, "dtype": "int32", "encoding": "token"}
    if frozen is None:
        return {"name": names.INPUT, "dtype": "float32", "encoding": "as the model takes it"}
    grid = frozen.grids[INPUT]
    shifted = Grid(grid.scale, int(grid.zero_point) + OFFSET)
    return {"name": names.INPUT, "dtype": "uint8", "encoding": "integer"} | _grid(shifted)


def _grid(grid: Grid) -> dict[str, Json]:
    return {"scale": float(np.float32(grid.scale)), "zero_point": int(grid.zero_point)}


def _model(plan: Plan, numbers: Numbers, about: dict[str, Json]) -> Any:
    from onnx import TensorProto, helper

    source = about["input"]
    batch, *shape = source["shape"]
    writer, values = translate(plan, numbers, source["name"], open_batch=batch is None)
    size, sizes = BATCH_AXIS if batch is None else batch, writer.shape(plan.output)[1:]
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(source["dtype"]))
    logits = writer.in_jax_order(values[plan.output])
    return writer.graph.model(
        helper.make_tensor_value_info(source["name"], dtype, [size, *shape]),
        helper.make_tensor_value_info(names.OUTPUT, TensorProto.FLOAT, [size, *sizes]),
        logits.name,
        {metadata.NAME: json.dumps(about, sort_keys=True, allow_nan=False)},
    )
