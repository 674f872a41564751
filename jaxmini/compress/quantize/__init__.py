"""Quantization of a traced model: plan, calibrate, train, freeze, and simulate the integer file."""

from jaxmini.compress.quantize.frozen import Frozen, FrozenConstant, FrozenKernel, freeze
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.simulation import simulate
from jaxmini.compress.quantize.transform import calibrate, int8, make_plan, quantize

__all__ = [
    "Frozen",
    "FrozenConstant",
    "FrozenKernel",
    "Grid",
    "Plan",
    "calibrate",
    "freeze",
    "int8",
    "make_plan",
    "quantize",
    "simulate",
]
