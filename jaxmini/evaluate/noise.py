"""Noise: how far the numbers of an int8 file are from the float network's, layer by layer.

A layer is a group of the plan. Its noise is told twice: as the file has it, where every layer before it adds
its own, and of rounding this layer alone, which tells where accuracy is lost.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.compress.quantize.evaluate import LEAST, Float, evaluate_all, evaluate_group
from jaxmini.compress.quantize.frozen import Dequantized, Frozen
from jaxmini.compress.quantize.plan import INPUT, Group, Plan
from jaxmini.compress.quantize.products import as_planned
from jaxmini.compress.quantize.simulation import centred
from jaxmini.compress.quantize.stored import floats_of
from jaxmini.evaluate.encoding import dequantized, encoded
from jaxmini.evaluate.interpreter import Interpreter, Kernels, in_batches
from jaxmini.evaluate.operators import require_inputs
from jaxmini.export import edges
from jaxmini.export.correspondence import Correspondence, correspond
from jaxmini.export.flatbuffer import Op
from jaxmini.model import Variables
from jaxmini.state import Array


@dataclasses.dataclass(frozen=True)
class LayerNoise:
    """The signal-to-quantization-noise ratios (SQNR) of one layer's output; more is better.

    Attributes:
        group: of the plan.
        operator: that computes it in the file, ``CONV_2D``; None where none does.
        sqnr: power of the float network's numbers over that of the file's distance from them, in dB;
            infinite where there is none. None where the network gives only zeros, or the file has no
            tensor of these numbers.
        alone: the same of the layer's kernel and output rounded, and nothing before it.
    """

    group: str
    operator: str | None
    sqnr: float | None
    alone: float | None


def layer_noise(
    source: Path | str | bytes,
    plan: Plan,
    frozen: Frozen,
    variables: Variables,
    inputs: np.ndarray,
    *,
    kernels: Kernels | str = Kernels.XNNPACK,
) -> tuple[LayerNoise, ...]:
    """Run a file on inputs, and the float network beside it.

    Args:
        source: path or bytes of an int8 file.
        plan: of the file's batch.
        frozen: the integers and grids the file was exported from.
        variables: that they were frozen from; the float network computes with these, unrounded.
        inputs: pictures, uint8 [N, H, W, C], or of a network that reads tokens these, int32 [N, ...];
            N >= 1. The last batch is filled up with its own.
        kernels: which implementation of the operators runs.

    Returns:
        The layers that compute, in the order of the plan.

    Raises:
        TypeError: the inputs are no array.
        ValueError: not an int8 file of inputs of this kind and shape, or no inputs.
    """
    interpreter = Interpreter(source, kernels=kernels, keep_all=True)
    require_inputs("layer_noise", interpreter, plan, inputs)
    file = edges.core(interpreter.file)
    found = correspond(file, plan, frozen)
    pairs = _layers(found)
    written = {
        group.name: op.outputs[0]
        for group, op in pairs
        if op is not None and group.name not in found.rectified
    }
    powers_of = jax.jit(functools.partial(_powers, plan, frozen, [group for group, _ in pairs]))
    floats, totals = floats_of(variables), []
    for batch in in_batches(inputs, interpreter.input.shape[0]):
        interpreter.run(encoded(batch, interpreter.input.dtype))
        numbers = {
            name: dequantized(interpreter.tensor(index), file.tensors[index])
            for name, index in written.items()
        }
        read = batch if plan.reads_tokens else encoded(batch, np.dtype(np.int8))
        totals.append(jax.device_get(powers_of(floats, read, numbers)))
    return tuple(
        LayerNoise(
            group.name,
            None if op is None else op.name,
            *(_decibels([of[group.name] for of in totals], which) for which in ("file", "alone")),
        )
        for group, op in pairs
    )


def _layers(found: Correspondence) -> list[tuple[Group, Op | None]]:
    """Each group that computes, and its operator; a rectifier in that operator stands behind the group."""
    return [
        (layer, op)
        for group, op in found.pairs
        for layer in (group, found.rectified.get(group.name))
        if layer is not None
    ]


def _powers(
    plan: Plan,
    frozen: Frozen,
    groups: Iterable[Group],
    variables: Variables,
    read: Array,
    numbers: Mapping[str, Array],
) -> dict[str, dict[str, jax.Array]]:
    """By group: squared numbers of the float network, ``signal``, and squared distances from them."""
    if not plan.reads_tokens:
        read = centred(read, frozen.grids[INPUT]) * jnp.float32(frozen.grids[INPUT].scale)
    values = evaluate_all(plan, Float(plan, variables), read)
    rounding, found = Dequantized(plan, frozen), {}
    for group in groups:
        expected = values[group.outputs[0]]
        seen = expected > LEAST  # what a mask hides is no number
        rounded = {"alone": evaluate_group(plan, group, rounding, values)[0]}
        if group.name in numbers and numbers[group.name].size == expected.size:
            rounded["file"] = as_planned(plan, group, numbers[group.name])
        distances = {name: other - expected for name, other in rounded.items()}
        found[group.name] = {
            name: jnp.sum(jnp.where(seen, jnp.square(these), 0.0))
            for name, these in {"signal": expected, **distances}.items()
        }
    return found


def _decibels(powers: list[Mapping[str, np.ndarray]], noise: str) -> float | None:
    """The ratio of the signal to that noise over all batches."""
    signal = sum(float(of["signal"]) for of in powers)
    if signal == 0 or noise not in powers[0]:
        return None
    added = sum(float(of[noise]) for of in powers)
    return 10 * math.log10(signal / added) if added else math.inf
