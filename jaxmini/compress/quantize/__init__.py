"""Quantization of a traced model: plan, calibrate, train, freeze, and simulate the integer file."""

from jaxmini.compress.quantize.adaround import adaround, without_kernel
from jaxmini.compress.quantize.assignment import rule
from jaxmini.compress.quantize.bias_correction import correct_bias, without_bias
from jaxmini.compress.quantize.equalization import Equalization, equalizable, equalize
from jaxmini.compress.quantize.estimators import entropy, min_max, moving_average, mse, percentile
from jaxmini.compress.quantize.frozen import Frozen, FrozenConstant, FrozenKernel, freeze
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.kernels import per_channel, per_tensor
from jaxmini.compress.quantize.pictures import Method
from jaxmini.compress.quantize.plan import Plan
from jaxmini.compress.quantize.proposal import bytes_of, propose
from jaxmini.compress.quantize.sensitivity import (
    KernelSensitivity,
    Sensitivity,
    kl,
    noise_to_signal,
    sensitivity_of,
)
from jaxmini.compress.quantize.simulation import simulate
from jaxmini.compress.quantize.transform import calibrate, int8, make_plan, quantize

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
    "entropy",
    "equalizable",
    "equalize",
    "freeze",
    "int8",
    "kl",
    "make_plan",
    "min_max",
    "moving_average",
    "mse",
    "noise_to_signal",
    "per_channel",
    "per_tensor",
    "percentile",
    "propose",
    "quantize",
    "rule",
    "sensitivity_of",
    "simulate",
    "without_bias",
    "without_kernel",
]
