"""Proposal: bits for each kernel that cost the network least and fit into a number of bytes.

Costs of roundings are taken to add up, which is exact where each is small.
"""

import dataclasses
import glob

import numpy as np

from jaxmini.compress.quantize.assignment import rule
from jaxmini.compress.quantize.sensitivity import KernelSensitivity, Sensitivity


def propose(sensitivity: Sensitivity, byte_budget: int) -> tuple[rule, ...]:
    """Rules that give each kernel its bits, for ``int8(rules=...)``: the least sum of costs in the budget.

    It is the exact solution of the multiple-choice knapsack (Nemhauser and Ullmann, 1969: the choices that
    no other beats in bytes and cost are kept, layer by layer). Of two with the same bytes and costs the one
    with more bits is taken.

    Args:
        sensitivity: of the network.
        byte_budget: for the kernels and biases as a file of ``Layout(int4=True)`` stores them: those of at
            most 4 bits packed but for depthwise ones, of any others a byte a weight. Scales, names and the
            program come on top.

    Raises:
        ValueError: there is no kernel, or no choice fits; says the smallest size there is.
    """
    if not sensitivity.kernels:
        raise ValueError("propose: the network has no kernel to choose bits for")
    smallest = bytes_of(sensitivity, {k.name: _smallest(k) for k in sensitivity.kernels})
    if byte_budget < smallest:
        raise ValueError(
            f"propose: {byte_budget:,} bytes are less than the {smallest:,} that the kernels and biases "
            f"take at the fewest of {sensitivity.bits} bits: allow that much, or measure 4 bits too"
        )
    chosen = _least_cost(sensitivity.kernels, byte_budget)
    return tuple(
        rule(glob.escape(name), kernel=dataclasses.replace(sensitivity.kernel, bits=bits))
        for name, bits in chosen.items()
    )


def bytes_of(sensitivity: Sensitivity, bits: dict[str, int], *, int4: bool = True) -> int:
    """Of the kernels and biases in a file with these bits a kernel, of ``Layout(int4=True)`` or without."""
    return sum(kernel.bytes(bits[kernel.name], int4=int4) for kernel in sensitivity.kernels)


def _smallest(kernel: KernelSensitivity) -> int:
    return min(kernel.costs, key=kernel.bytes)


def _least_cost(kernels: tuple[KernelSensitivity, ...], budget: int) -> dict[str, int]:
    """Bits by name."""
    sizes, costs = np.zeros(1, np.int64), np.zeros(1)
    least = [kernel.bytes(_smallest(kernel)) for kernel in kernels]
    steps = []
    for index, kernel in enumerate(kernels):
        options = sorted(kernel.costs, reverse=True)
        room = budget - sum(least[index + 1 :])
        more = np.array([kernel.bytes(bits) for bits in options])
        size = (sizes[None] + more[:, None]).ravel()
        cost = (costs[None] + np.array([kernel.costs[bits] for bits in options])[:, None]).ravel()
        kept = _unbeaten(size, cost, room)
        steps.append((options, kept // len(sizes), kept % len(sizes)))
        sizes, costs = size[kept], cost[kept]
    chosen, last = {}, int(np.argmin(costs))
    for kernel, (options, option, before) in zip(reversed(kernels), reversed(steps), strict=True):
        chosen[kernel.name] = options[option[last]]
        last = before[last]
    return {kernel.name: chosen[kernel.name] for kernel in kernels}


def _unbeaten(size: np.ndarray, cost: np.ndarray, room: int) -> np.ndarray:
    """The choices that fit and that none of the same or a smaller size beats, by size."""
    order = np.lexsort((np.arange(len(size)), cost, size))
    order = order[size[order] <= room]
    before = np.concatenate([[np.inf], np.minimum.accumulate(cost[order])[:-1]])
    return order[cost[order] < before]
