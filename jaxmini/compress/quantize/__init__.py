"""Quantization of a traced model: plan, calibrate, train, freeze, and simulate the integer file."""

from jaxmini.compress.quantize.assignment import rule
from jaxmini.compress.quantize.estimators import entropy, min_max, moving_average, mse, percentile
from jaxmini.compress.quantize.frozen import Frozen, FrozenConstant, FrozenKernel, freeze
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.kernels import per_channel, per_tensor
from jaxmini.compress.quantize.learned import learned_min_max, lsq, lsq_plus, observed, pact, tqt
from jaxmini.compress.quantize.learned_kernels import lsq_per_channel, lsq_per_tensor
from jaxmini.compress.quantize.oscillation import dampening, freezing, monitoring
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.schedule import cosine, phases
from jaxmini.compress.quantize.simulation import simulate
from jaxmini.compress.quantize.stored import floats_of
from jaxmini.compress.quantize.transform import calibrate, int8, make_plan, quantize

__all__ = [
    "Frozen",
    "FrozenConstant",
    "FrozenKernel",
    "Grid",
    "Plan",
    "calibrate",
    "cosine",
    "dampening",
    "entropy",
    "floats_of",
    "freeze",
    "freezing",
    "int8",
    "learned_min_max",
    "lsq",
    "lsq_per_channel",
    "lsq_per_tensor",
    "lsq_plus",
    "make_plan",
    "min_max",
    "monitoring",
    "moving_average",
    "mse",
    "observed",
    "pact",
    "per_channel",
    "per_tensor",
    "percentile",
    "phases",
    "quantize",
    "rule",
    "simulate",
    "tqt",
]
