"""Float runs: the plan of a network of which only kernels are rounded; all between them stays float.

What stands between two kernels may be any operation, as no integer has to go through it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxmini.compress.quantize.assignment import near
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.islands import float_island
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.program import PRODUCTS, Literal, Op, Program
from jaxmini.compress.quantize.refusal import check_batch_statistics
from jaxmini.compress.quantize.rules import product
from jaxmini.compress.quantize.subgraph import FloatRun, read_by, seen_outside


def group_kernels(program: Program, kept: Sequence[float_island] = ()) -> Plan:
    """The plan of a program whose kernels are rounded, and nothing else: it has no grids.

    A kernel is what a convolution or matrix product multiplies the input's numbers with, if it comes from
    the variables; what is affine after it is folded into it, as in integers.

    Args:
        kept: modules whose kernels stay float.

    Raises:
        ValueError: there is no kernel, ``kept`` names a module without one, inference mixes the examples
            of a batch, or a kernel is used in a way that has no form (says which, and what to do).
    """
    grouping = Grouping(program)
    active = [op for op in program.ops if grouping.is_activation(op.outputs[0])]
    products = [op for op in active if _has_kernel(grouping, op)]
    _check_kernels(products, kept)
    rounded = {op.outputs for op in products if not any(one.module(op.path) for one in kept)}
    if not rounded:
        raise ValueError(
            "weights_only: float_island keeps every kernel, so there is nothing to round: keep fewer"
        )
    pending: list[Op] = []
    for op in active:
        check_batch_statistics(op, program)
        if op.outputs[0] in grouping.taken:
            continue
        if op.outputs in rounded:
            _place(grouping, pending)
            product(grouping, op)
            pending = []
        else:
            pending.append(op)
    _place(grouping, pending)
    if not grouping.is_activation(grouping.output):
        raise ValueError("quantize: the model's output does not depend on its input")
    return dataclasses.replace(grouping.finish({}), sites=(), fixed={}, ties={})


def _has_kernel(grouping: Grouping, op: Op) -> bool:
    """Whether an operation multiplies numbers of the input with some of the variables."""
    if op.name not in PRODUCTS or grouping.program.types[op.outputs[0]].dtype != np.float32:
        return False
    inputs, kernel = op.inputs
    if op.name == "dot_general" and not grouping.is_activation(inputs):
        inputs, kernel = kernel, inputs
    return grouping.is_activation(inputs) and not (
        grouping.is_activation(kernel) or isinstance(kernel, Literal)
    )


def _check_kernels(products: Sequence[Op], kept: Sequence[float_island]) -> None:
    if not products:
        raise ValueError(
            "weights_only: the network multiplies its input with no kernel, so there is nothing to round"
        )
    paths = list(dict.fromkeys(op.path for op in products))
    for one in kept:
        if not any(one.module(path) for path in paths):
            raise ValueError(
                f"weights_only: {one!r} matches no module with a kernel; {near(one.pattern, paths)}"
            )


def _place(grouping: Grouping, ops: Sequence[Op]) -> None:
    """Append the operations as one group, if there are any."""
    if not ops:
        return
    # A rectifier that went into a kernel's group left its readers to what it had read.
    ops = tuple(dataclasses.replace(op, inputs=grouping.inputs(op)) for op in ops)
    reads, held = read_by(grouping, ops)
    name = grouping.unique(f"{ops[0].path}:float")
    outputs = seen_outside(grouping, ops)
    grouping.add(FloatRun(name, name, reads, outputs, ops[-1], ops, reads, held))
