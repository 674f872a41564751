"""Quantization of a traced model: plan, calibrate, train, freeze, and simulate the integer file."""

from jaxmini.compress.quantize.assignment import rule
from jaxmini.compress.quantize.estimators import entropy, min_max, moving_average, mse, percentile
from jaxmini.compress.quantize.frozen import Frozen, FrozenConstant, FrozenKernel, freeze
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.islands import float_island
from jaxmini.compress.quantize.kernels import per_channel, per_tensor
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.points import quant_point
from jaxmini.compress.quantize.simulation import simulate
from jaxmini.compress.quantize.transform import calibrate, int8, make_plan, quantize

__all__ = [
    "Frozen",
    "FrozenConstant",
    "FrozenKernel",
    "Grid",
    "Plan",
    "calibrate",
    "entropy",
    "float_island",
    "freeze",
    "int8",
    "make_plan",
    "min_max",
    "moving_average",
    "mse",
    "per_channel",
    "per_tensor",
    "percentile",
    "quant_point",
    "quantize",
    "rule",
    "simulate",
]
