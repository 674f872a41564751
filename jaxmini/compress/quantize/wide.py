"""Wide: plans whose activations are of 16 bits (int16 activations, int8 kernels), and what they may hold.

Kernels of int16 activations exist for fewer operators than those of int8, and know no zero point but 0.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from jaxmini.compress.quantize.functions import Apply
from jaxmini.compress.quantize.grid import WIDE, Grid
from jaxmini.compress.quantize.lookup import Lookup
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.moving import Select
from jaxmini.compress.quantize.plan import Elementwise, Group, Move, Plan, Rectifier
from jaxmini.compress.quantize.products import Product
from jaxmini.compress.quantize.refusal import refuse

# The groups that no file of int16 activations holds: nothing proves that kernels compute what training saw.
UNPROVEN: Mapping[type[Group], str] = {
    Apply: "a function of int16 numbers",
    Product: "a matrix product of two int16 activations",
    Mask: "a mask of int16 numbers",
    Lookup: "a table of int16 numbers",
    Select: "a choice between int16 numbers",
    Rectifier: "a rectifier that no convolution, product or sum ends with",
}
SUMS_AND_PRODUCTS = frozenset({"add", "mul"})
MOVES = frozenset(
    {
        "broadcast_in_dim",
        "copy",
        "pad",
        "reduce_window_max",
        "reshape",
        "slice",
        "squeeze",
        "stop_gradient",
        "transpose",
    }
)


def widened(plan: Plan) -> Plan:
    """A plan that gives some sites 16 bits, with what that asks of the others.

    A grid that is given for the input keeps its scale, and its integers become those of zero point 0: a
    pixel is ``pixel - mean`` there, whatever the grid of its int8 was.

    Raises:
        ValueError: other sites have other bits, or a group has no proven kernel for int16; names both.
    """
    for group in plan.groups:
        _check(plan, group)
    others = {site: plan.activation(site).bits for site in plan.observed}
    others = {site: bits for site, bits in others.items() if bits != WIDE}
    if others:
        named = ", ".join(f"{site!r} {bits}" for site, bits in list(others.items())[:3])
        raise ValueError(
            f"int8: activations are of {WIDE} bits in part, and these of other bits: {named} "
            f"({len(others)} in all): a network has {WIDE} bits everywhere or nowhere; say "
            f"int8(activation=observed(bits={WIDE})) without rules on bits"
        )
    return dataclasses.replace(plan, fixed={site: _wide(grid) for site, grid in plan.fixed.items()})


def _check(plan: Plan, group: Group) -> None:
    """Refuse a group without a proven kernel."""
    reason = next((why for kind, why in UNPROVEN.items() if isinstance(group, kind)), None)
    if isinstance(group, Elementwise) and group.op.name not in SUMS_AND_PRODUCTS:
        reason = "a difference of int16 numbers"
    if reason is None and isinstance(group, Move) and not _is_proven(plan, group):
        reason = "this move of int16 numbers"
    if reason is not None:
        refuse(
            group.op,
            f"{group.name}: {reason} has no kernel that is proven",
            "give the network activations of 8 bits, int8(activation=observed())",
        )


def _is_proven(plan: Plan, move: Move) -> bool:
    """Whether a move is one of those that are proven: it joins nothing, and repeats nothing."""
    if move.op.name not in MOVES or len(move.inputs) > 1:
        return False
    before, after = (math.prod(plan.program.shape(v)) for v in (*move.inputs, *move.outputs))
    return before == after or move.op.name != "broadcast_in_dim"


def _wide(grid: Grid) -> Grid:
    return Grid(np.float32(grid.scale), np.int32(0), WIDE)
