"""Merging: what a model computes twice is one group of its plan, as it is one operator of a file.

Converters merge equal operations. Groups are merged, and not operations: one kernel with different factors
folded into it, or parts that two known functions have in common, stay what they are.
"""

import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxmini.compress.quantize.plan import Group
from jaxmini.compress.quantize.program import Literal, Op, Value

# What may answer otherwise the second time.
IMPURE = frozenset({"debug_callback", "infeed", "io_callback", "rng_uniform"})
# The fields of groups that say where they stand, or what they call their values.
PLACE = frozenset({"name", "site", "outputs", "ops", "reads"})
VALUES = frozenset({"held", "inputs", "kernel"})


@dataclasses.dataclass(frozen=True, eq=False)
class Sameness:
    """Which groups of a program compute the same.

    Attributes:
        producers: the operation that computes each value.
        activations: the values that depend on the input. Two of them are the same if they are one: what was
            computed twice before has one name when it is read.
    """

    producers: Mapping[int, Op]
    activations: Set[int]

    def groups(self, one: Group, other: Group) -> bool:
        """Whether two groups do the same with the same values."""
        if type(one) is not type(other) or len(one.outputs) != len(other.outputs):
            return False
        fields = [f.name for f in dataclasses.fields(one) if f.name not in PLACE]
        same = (self._field(name, getattr(one, name), getattr(other, name)) for name in fields)
        return all(same) and self._bodies(one, other)

    def values(self, one: Value | None, other: Value | None) -> bool:
        """Whether two values are the same: one, or equal numbers, or computed alike of the variables."""
        if isinstance(one, int) and isinstance(other, int):
            return one == other or self._computed(one, other)
        if isinstance(one, Literal) and isinstance(other, Literal):
            return same_settings(one.value, other.value)
        return one is other

    def _field(self, name: str, one: Any, other: Any) -> bool:
        if name == "chain":
            steps = [[(step.name, step.left) for step in chain] for chain in (one, other)]
            operands = [[step.operand for step in chain] for chain in (one, other)]
            return steps[0] == steps[1] and self._all(*operands)
        if name in VALUES:
            return self._all(one, other) if isinstance(one, tuple) else self.values(one, other)
        return same_settings(one, other)

    def _all(self, some: Sequence[Value | None], others: Sequence[Value | None]) -> bool:
        return len(some) == len(others) and all(map(self.values, some, others))

    def _computed(self, one: int, other: int) -> bool:
        """Whether the variables alone give both values, and the same operations do."""
        makers = self.producers.get(one), self.producers.get(other)
        if None in makers or not self.activations.isdisjoint((one, other)):
            return False
        first, second = makers
        alike = first.outputs.index(one) == second.outputs.index(other)
        return alike and same_settings(first, second) and self._all(first.inputs, second.inputs)

    def _bodies(self, one: Group, other: Group) -> bool:
        """Whether the operations that a subgraph runs do the same with what it reads."""
        if not hasattr(one, "ops"):
            return True
        if len(one.ops) != len(other.ops):
            return False
        names = dict(zip((*one.reads, *one.held), (*other.reads, *other.held), strict=True))
        for first, second in zip(one.ops, other.ops, strict=True):
            operands = tuple(names.get(v, v) if isinstance(v, int) else v for v in first.inputs)
            if not (same_settings(first, second) and self._all(operands, second.inputs)):
                return False
            names.update(zip(first.outputs, second.outputs, strict=True))
        return tuple(names[output] for output in one.outputs) == other.outputs


def same_settings(one: Any, other: Any) -> bool:
    """Whether two parameters are the same; arrays, programs and operations by what they hold or do.

    Operations are compared without their operands.
    """
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, jax.Array):
        return False
    match one:
        case np.ndarray():
            return _form(one) == _form(other)
        case Op():
            return _same_operations(one, other)
        case tuple() | list():
            return len(one) == len(other) and all(map(same_settings, one, other))
        case dict():
            return one.keys() == other.keys() and all(
                same_settings(one[key], other[key]) for key in one
            )
        case core.ClosedJaxpr():
            same = _same_programs(one.jaxpr, other.jaxpr)
            return same and same_settings(list(one.consts), list(other.consts))
        case core.Jaxpr():
            return _same_programs(one, other)
    return bool(one == other)


def _form(array: np.ndarray) -> tuple:
    """What two arrays have in common where they are the same to the last bit."""
    return array.dtype, array.shape, array.tobytes()


def _same_operations(one: Op, other: Op) -> bool:
    if (one.name, one.primitive) != (other.name, other.primitive) or one.name in IMPURE:
        return False
    if one.name == one.primitive.name:
        return same_settings(one.params, other.params)
    # A call that is kept whole is known by its name and its body: its derivative is a new object each time.
    return same_settings(_programs(one.params), _programs(other.params))


def _programs(params: Mapping[str, Any]) -> dict[str, Any]:
    kinds = core.ClosedJaxpr | core.Jaxpr
    return {name: value for name, value in params.items() if isinstance(value, kinds)}


def _same_programs(one: core.Jaxpr, other: core.Jaxpr) -> bool:
    """Whether two programs differ in the names of their values alone."""
    names: dict[core.Var, core.Var] = {}

    def named(variables: Sequence[Any], others: Sequence[Any]) -> bool:
        names.update(zip(variables, others, strict=False))
        return [v.aval for v in variables] == [v.aval for v in others]

    def same(atom: Any, wanted: Any) -> bool:
        if isinstance(atom, core.Literal) and isinstance(wanted, core.Literal):
            return atom.aval == wanted.aval and same_settings(atom.val, wanted.val)
        return not isinstance(atom, core.Literal) and names.get(atom) is wanted

    def read(atoms: Sequence[Any], others: Sequence[Any]) -> bool:
        return len(atoms) == len(others) and all(map(same, atoms, others))

    starts = ((*p.constvars, *p.invars) for p in (one, other))
    if one.effects or len(one.eqns) != len(other.eqns) or not named(*starts):
        return False
    return all(
        first.primitive is second.primitive
        and same_settings(first.params, second.params)
        and read(first.invars, second.invars)
        and named(first.outvars, second.outvars)
        for first, second in zip(one.eqns, other.eqns, strict=True)
    ) and read(one.outvars, other.outvars)
