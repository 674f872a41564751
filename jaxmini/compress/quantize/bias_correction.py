"""Bias correction: what rounding shifts the mean of a channel by is taken back by its bias.

The errors of a kernel's roundings do not cancel over inputs that are not centred, and after a rectifier
none are.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from jaxmini.compress.quantize.layerwise import Layer, Layerwise, outputs_of
from jaxmini.compress.quantize.leaves import (
    Leaves,
    UnreachableError,
    replaced,
    unfolded_shift,
)
from jaxmini.compress.quantize.pictures import checked_batches
from jaxmini.compress.quantize.plan import Plan, Weighted
from jaxmini.compress.quantize.stored import floats_of
from jaxmini.model import Model, Variables
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True)
class correct_bias:
    """Bias correction: each channel of each layer gets back the mean that its kernel's rounding took.

    The means are over all pictures and pixels, before the rectifier; layers are corrected in order, each fed
    by those before it as they were corrected, with its kernel in float and rounded. What rounds or clips the
    activations is not in it: a few strange pictures, whose numbers are clipped, would shift all others. A
    layer without a bias of its own stays as it is: ``without_bias(plan)`` tells which and why.

    Called with a model, its calibrated variables and batches of pictures, it returns the variables. Only
    biases (BatchNorm's beta) change, so the float network is another one: do this last.

    Raises:
        ValueError: when called, the model is not quantized or not calibrated, there are no pictures or they
            are not finite, or no layer has a bias.

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019),
    section 4.2, with the means of a layer's inputs measured.
    """

    def __call__(self, model: Model, variables: Variables, batches: Iterable[Array]) -> Variables:
        network = Layerwise(model, variables, checked_batches("correct_bias", model, batches))
        missing = without_bias(network.plan)
        if len(missing) == len(network.plan.weighted):
            reasons = "; ".join(dict.fromkeys(missing.values())) or "there is no layer"
            raise ValueError(f"correct_bias: no layer has a bias of its own: {reasons}")
        arrays = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(floats_of(variables))]
        leaves, changes = Leaves(network.plan), {}
        for layer in network:
            if layer.group.name in missing:
                continue
            delta, shift = mean_error(layer), leaves.shift(layer.group)
            bias = layer.frozen.stored_bias(layer.bias - delta)
            network.settle(layer, layer.frozen.float_kernel, bias)
            more = unfolded_shift(shift, layer.group, -delta, network.values)
            changes[shift.leaf] = arrays[shift.leaf] + more.reshape(arrays[shift.leaf].shape)
        return replaced(variables, changes)


def without_bias(plan: Plan) -> Mapping[str, str]:
    """The layers that ``correct_bias`` leaves as they are, and why, by name."""
    leaves, found = Leaves(plan), {}
    for group in plan.weighted:
        try:
            leaves.shift(group)
        except UnreachableError as error:
            found[group.name] = str(error)
    return found


def mean_error(layer: Layer) -> np.ndarray:
    """How far the rounding of its kernel moves the mean of each channel, before the rectifier, float32 [O].

    The bias is not rounded: it is what will be changed.
    """
    means = jax.jit(functools.partial(_means, layer.group))
    rounded = _over_all(means, layer.rounded, layer.frozen.float_kernel, layer.bias)
    return (rounded - _over_all(means, layer.rounded, layer.kernel, layer.bias)).astype(np.float32)


def _means(group: Weighted, inputs: Array, kernel: Array, bias: Array) -> jax.Array:
    return outputs_of(group, inputs, kernel, bias).reshape(-1, len(bias)).mean(0)


def _over_all(
    means: Callable[[Array, Array, Array], Array], inputs: list[Array], kernel: Array, bias: Array
) -> np.ndarray:
    """The mean of each channel over all batches, float64 [O]."""
    each = [np.asarray(means(batch, kernel, bias), np.float64) for batch in inputs]
    return np.average(each, axis=0, weights=[len(batch) for batch in inputs])
