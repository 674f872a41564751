"""Leaves: which of the user's variables stand behind a group's kernel and bias, and how to change them.

A plan folds BatchNorm into kernels; a network changed after training must stay the user's own, so what a
group shall compute with is written back to the variables that it is folded from.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jaxmini.compress.quantize.fold import Affine, fold
from jaxmini.compress.quantize.plan import Plan, Weighted
from jaxmini.compress.quantize.program import Literal, Op, Value
from jaxmini.compress.quantize.stored import LEARNED, floats_of
from jaxmini.model import Variables

# Operations that a per-channel number passes on its way from its leaf, and is still the same number.
PASSED = frozenset({"broadcast_in_dim", "copy", "reshape", "squeeze"})


class UnreachableError(ValueError):
    """A group computes with numbers that no variables of its own hold; says which and why."""


class Shift(NamedTuple):
    """The variable that a group's bias is changed by.

    Attributes:
        leaf: its position in ``jax.tree.leaves`` of the variables.
        sign: 1 where it is added, -1 where it is subtracted.
        rest: the steps of the chain that follow.
    """

    leaf: int
    sign: int
    rest: tuple[Affine, ...]


class Leaves:
    """The variables of a plan, as positions in ``jax.tree.leaves(floats_of(variables))``."""

    def __init__(self, plan: Plan) -> None:
        program = plan.program
        self._plan = plan
        self._position = {value: index for index, value in enumerate(program.variables)}
        self._readers = Counter(filter(_is, _read(plan)))
        self._maker: dict[int, Op] = {out: op for op in program.ops for out in op.outputs}

    def kernel(self, group: Weighted) -> int:
        """The leaf that is a group's kernel, and nothing else's.

        Raises:
            UnreachableError: it has none, shares it, or computes it.
        """
        if group.kernel is None:
            raise UnreachableError(f"{group.name} has no kernel")
        if group.kernel not in self._position:
            raise UnreachableError(f"the kernel of {group.name} is computed and no variable")
        if self._readers[group.kernel] != 1:
            raise UnreachableError(f"the kernel of {group.name} is shared")
        return self._position[group.kernel]

    def scalings(self, group: Weighted) -> tuple[int, ...]:
        """The leaves that scale a group's output channels, times the same positive numbers all.

        They are BatchNorm's gamma and beta where it has them, so its statistics stay true; else the kernel
        and whatever is added after it. All hold one number a channel (a kernel in its last axis).

        Raises:
            UnreachableError: something that is added is no variable of its own, or the kernel is none.
        """
        found = []
        for step in reversed(group.chain):
            if step.name in ("add", "sub"):
                if (leaf := self._own(step.operand, group)) is None:
                    raise UnreachableError(f"what {group.name} adds is shared or no variable")
                found.append(leaf)
            elif step.name == "mul" and (leaf := self._factor(step.operand, group)) is not None:
                return (*found, leaf)
        return (*found, self.kernel(group))

    def shift(self, group: Weighted) -> Shift:
        """The last variable that a group adds to its output channels: beta, or a bias.

        Raises:
            UnreachableError: it adds none.
        """
        for index, step in reversed(tuple(enumerate(group.chain))):
            if step.name in ("add", "sub"):
                leaf = self._own(step.operand, group)
                if leaf is not None:
                    sign = -1 if step.name == "sub" and not step.left else 1
                    return Shift(leaf, sign, group.chain[index + 1 :])
        raise UnreachableError(f"{group.name} adds no variable of its own: it has no bias")

    def _own(self, value: Value | None, group: Weighted) -> int | None:
        """The leaf that ``value`` is, if it holds a number a channel and nothing else reads it."""
        while _is(value) and self._readers[value] == 1:
            if value in self._position:
                size = math.prod(self._plan.program.shape(value))
                return self._position[value] if size == math.prod(group.channels) else None
            if value not in self._maker or self._maker[value].name not in PASSED:
                return None
            value = self._maker[value].inputs[0]
        return None

    def _factor(self, value: Value | None, group: Weighted) -> int | None:
        """The leaf that ``value`` is proportional to: gamma in ``gamma / sqrt(var + eps)``."""
        if (leaf := self._own(value, group)) is not None:
            return leaf
        maker = self._maker.get(value) if _is(value) and self._readers[value] == 1 else None
        if maker is None or maker.name != "mul":
            return None
        leaves = (self._own(operand, group) for operand in maker.inputs)
        return next((leaf for leaf in leaves if leaf is not None), None)


def _read(plan: Plan) -> Iterator[Value | None]:
    """The values that a plan reads, each as often as it does."""
    for op in plan.weight_ops:
        yield from op.inputs
    for group in plan.groups:
        yield from (*group.inputs, *group.held)


def replaced(variables: Variables, changes: Mapping[int, np.ndarray]) -> Variables:
    """The variables with other arrays at some leaves, in the shapes and dtypes of the old.

    What quantization keeps among them stays.
    """
    leaves, structure = jax.tree.flatten(floats_of(variables))
    for index, array in changes.items():
        old = leaves[index]
        leaves[index] = jax.numpy.asarray(np.reshape(array, old.shape), old.dtype)
    floats = jax.tree.unflatten(structure, leaves)
    kept = {name: tree for name, tree in variables.items() if name not in floats}
    if LEARNED in variables.get("params", {}):
        floats["params"] = {**floats["params"], LEARNED: variables["params"][LEARNED]}
    return {**floats, **kept}


def unfolded_kernel(
    group: Weighted, kernel: np.ndarray, old: np.ndarray, values: Mapping[int, jax.Array]
) -> np.ndarray:
    """The variable whose folded kernel is ``kernel`` [..., O].

    Where the chain multiplies a channel with 0, its kernel folds to 0 whatever it is, and stays.

    Args:
        old: the variable as it is.
        values: the program's values that depend on the variables alone.
    """
    factor = np.asarray(_factor_of(group, group.chain, values), np.float64)
    before = np.reshape(np.asarray(old, np.float64), kernel.shape)
    silent = factor == 0
    return np.where(silent, before, kernel / np.where(silent, 1, factor)).astype(np.float32)


def unfolded_shift(
    shift: Shift, group: Weighted, delta: np.ndarray, values: Mapping[int, jax.Array]
) -> np.ndarray:
    """What is added to the variable of ``shift`` so that the folded bias grows by ``delta`` [O]."""
    factor = np.asarray(_factor_of(group, shift.rest, values), np.float64)
    silent = factor == 0
    return np.where(silent, 0, shift.sign * delta / np.where(silent, 1, factor))


def _factor_of(
    group: Weighted, chain: tuple[Affine, ...], values: Mapping[int, jax.Array]
) -> jax.Array:
    """What a chain multiplies each channel with, [O]."""
    ones = np.ones((1, math.prod(group.channels)), np.float32)
    return fold(ones, chain, group.channels, values)[0][0]


def _is(value: Value | None) -> bool:
    return value is not None and not isinstance(value, Literal)
