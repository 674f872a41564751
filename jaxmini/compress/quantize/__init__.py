"""Quantization of a traced model: plan, calibrate, train, freeze, and simulate the integer file."""

from jaxmini.compress.quantize.adaround import adaround, without_kernel
from jaxmini.compress.quantize.assignment import rule
from jaxmini.compress.quantize.bias_correction import correct_bias, without_bias
from jaxmini.compress.quantize.equalization import Equalization, equalizable, equalize, rescale
from jaxmini.compress.quantize.estimators import entropy, min_max, moving_average, mse, percentile
from jaxmini.compress.quantize.frozen import Frozen, FrozenConstant, FrozenKernel, freeze
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.islands import float_island
from jaxmini.compress.quantize.kernels import per_channel, per_tensor
from jaxmini.compress.quantize.learned import learned_min_max, lsq, lsq_plus, observed, pact, tqt
from jaxmini.compress.quantize.learned_kernels import lsq_per_channel, lsq_per_tensor
from jaxmini.compress.quantize.norms import integer_norm
from jaxmini.compress.quantize.oscillation import dampening, freezing, monitoring
from jaxmini.compress.quantize.pictures import Method
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.points import quant_point
from jaxmini.compress.quantize.proposal import bytes_of, propose
from jaxmini.compress.quantize.schedule import cosine, phases
from jaxmini.compress.quantize.sensitivity import (
    KernelSensitivity,
    Sensitivity,
    kl,
    noise_to_signal,
    sensitivity_of,
)
from jaxmini.compress.quantize.simulation import simulate, simulator
from jaxmini.compress.quantize.stored import floats_of
from jaxmini.compress.quantize.transform import calibrate, int8, make_plan, quantize
from jaxmini.compress.quantize.weights_only import weights_only

__all__ = [
    "Equalization",
    "Frozen",
    "FrozenConstant",
    "FrozenKernel",
    "Grid",
    "KernelSensitivity",
    "Method",
    "Plan",
    "Sensitivity",
    "adaround",
    "bytes_of",
    "calibrate",
    "correct_bias",
    "cosine",
    "dampening",
    "entropy",
    "equalizable",
    "equalize",
    "float_island",
    "floats_of",
    "freeze",
    "freezing",
    "int8",
    "integer_norm",
    "kl",
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
    "noise_to_signal",
    "observed",
    "pact",
    "per_channel",
    "per_tensor",
    "percentile",
    "phases",
    "propose",
    "quant_point",
    "quantize",
    "rescale",
    "rule",
    "sensitivity_of",
    "simulate",
    "simulator",
    "tqt",
    "weights_only",
    "without_bias",
    "without_kernel",
]
