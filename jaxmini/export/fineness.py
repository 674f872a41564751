"""Fineness: steps of a result that are too fine for the multipliers of integer kernels.

A kernel turns its sums into steps of its result by one multiplication. XNNPACK refuses multipliers of 256 and
more, so that a file with one is not run at all, and others end the process or overflow.
"""

import numpy as np

from jaxmini.compress.quantize.frozen import Frozen, operand_name
from jaxmini.compress.quantize.plan import Elementwise, Group, Mean, Plan, Weighted
from jaxmini.compress.quantize.products import Product

# Sums come in steps this many times those of the result, or more: no kernel multiplies by that.
LIMIT = 256


def require_coarse(plan: Plan, frozen: Frozen) -> None:
    """Raise ValueError if the grid of a group's result is too fine; names the first such site."""
    for group in plan.groups:
        step = _step(plan, frozen, group)
        if step is None:
            continue
        own = float(frozen.grids[group.site].scale)
        if step >= LIMIT * own:
            raise ValueError(
                f"tflite: the numbers at {group.site!r} are held in steps of {own:.3g}, and what is summed "
                f"there comes in steps of {step:.3g}, {step / own:,.0f} times as large; integer kernels go "
                f"up to {LIMIT}. Next to nothing but zeros was seen there, or training has shrunk the "
                "range: calibrate on pictures that reach that layer, or train ranges more slowly"
            )


def _step(plan: Plan, frozen: Frozen, group: Group) -> float | None:
    """The largest step of what a group sums, or multiplies; None where no kernel multiplies it again.

    A mean's kernel multiplies by what is left of the step after the division.
    """

    def scale(position: int) -> float:
        value = group.inputs[position]
        if plan.is_constant(value):
            return float(frozen.constants[operand_name(group, position)].grid.scale)
        return float(frozen.grids[plan.site_of[value]].scale)

    match group:
        case Weighted():
            kernel = frozen.kernels[group.name]
            return float(np.max(kernel.input_scale * kernel.scale))
        case Mean():
            return scale(0) / group.count
        case Product():
            return scale(0) * scale(1)
        case Elementwise() if group.op.name == "mul":
            return scale(0) * scale(1)
        case Elementwise():
            return max(scale(0), scale(1))
    return None
