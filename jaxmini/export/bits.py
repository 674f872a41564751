"""Bits: of which activations a kind of integer file can be."""

from jaxmini.compress.quantize.grid import BITS, WIDE
from jaxmini.compress.quantize.plan import Plan

INT8, INT16X8 = "int8", "int16x8"


def variant_of(plan: Plan) -> str:
    """The variant of file that a plan is for."""
    return INT16X8 if plan.is_wide else INT8


def require_bits(plan: Plan, variant: str) -> None:
    """See that a plan's activations are those of a variant.

    Raises:
        ValueError: they are of 16 bits and should be of 8, or the other way round, or of fewer than 8,
            which no file can hold: its kernels would not stop at the ends of such a grid. Names the remedy.
    """
    bits = {site: plan.activation(site).bits for site in plan.observed}
    narrow = [site for site, count in bits.items() if count < BITS]
    if narrow:
        raise ValueError(
            f"{variant}: activations of fewer than {BITS} bits are for training and simulation; "
            f"{narrow[0]!r} has {bits[narrow[0]]} ({len(narrow)} grids in all), and no kernel of a file "
            "stops at the ends of such a grid: train with activation=observed() or lsq()"
        )
    if variant == INT8 and plan.is_wide:
        raise ValueError(
            f"int8: the network's activations are of {WIDE} bits: export variant 'int16x8' to a .tflite "
            "file, or quantize it with int8()"
        )
    if variant == INT16X8 and not plan.is_wide:
        raise ValueError(
            f"int16x8: the network's activations are of {BITS} bits: export variant 'int8', or quantize it "
            f"with int8(activation=observed(bits={WIDE}))"
        )
