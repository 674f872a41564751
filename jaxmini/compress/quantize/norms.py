"""Norms: a normalisation over the last axis in integers, for targets without floating point.

Mean, difference, square, mean, root and product are one integer operator each, and factors and biases a
last one; each rounds, so it costs precision that a float island does not.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmini.compress.quantize import functions
from jaxmini.compress.quantize.fold import Affine, fold
from jaxmini.compress.quantize.grouping import Grouping
from jaxmini.compress.quantize.islands import Region
from jaxmini.compress.quantize.patterns import rectified, scalar
from jaxmini.compress.quantize.plan import Weighted
from jaxmini.compress.quantize.program import Op, Value, run
from jaxmini.compress.quantize.refusal import refuse
from jaxmini.compress.quantize.subgraph import read_by
from jaxmini.state import Array

Rule = Callable[[Grouping, Op], None]

# How near a normalisation must be to what is written for it, of numbers drawn from a normal distribution.
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class integer_norm:
    """Compute the normalisations whose path matches a pattern in integers, and not in a float island.

    LayerNorm and RMSNorm over the last axis. The variance has 8 bits for all rows of all pictures, so rows
    whose variance is far below the largest lose precision; train with it. Of rows with standard deviations
    of 1/2 to 2 the noise is 0.040 of the signal, that of a float island between integers 0.019
    (``tests/compress/quantize/norms_test.py``).

    Attributes:
        pattern: a glob, case-sensitive, on the path of a module with or without the network's own name
            (``Net/block0/norm``, ``block*``); ``*`` matches any text, slashes too.
    """

    pattern: str = "*"

    def __post_init__(self) -> None:
        if not (isinstance(self.pattern, str) and self.pattern):
            raise TypeError(
                f"integer_norm: pattern is {self.pattern!r}, expected a glob as 'block0/*'"
            )

    def matches(self, path: str) -> bool:
        """Whether the pattern matches the path of a module."""
        _, _, rest = path.partition("/")
        return any(fnmatchcase(form, self.pattern) for form in (path, rest) if form)


class Norm(NamedTuple):
    """What a normalisation computes.

    Attributes:
        source: what it normalises.
        centres: whether it takes the mean away.
        epsilon: what it adds to the variance.
        chain: its factors and biases, in their order.
        last: the value it leaves.
    """

    source: int
    centres: bool
    epsilon: float
    chain: tuple[Affine, ...]
    last: int

    def normalized(self, values: Array) -> jax.Array:
        """Without factors and biases, as the operators of a file compute it."""
        if self.centres:
            values = values - jnp.mean(values, -1, keepdims=True)
        variance = jnp.mean(values * values, -1, keepdims=True)
        return values * lax.rsqrt(variance + np.float32(self.epsilon) if self.epsilon else variance)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Root(functions.Apply):
    """The root of each row's variance, inverted."""

    def __call__(self, operands: Sequence[Array], held: Sequence[Array] = ()) -> Array:
        """In float; where the variance was rounded to 0 the largest of the others, as the grid ends there."""
        (variance,) = operands
        known = variance > 0
        roots = lax.rsqrt(jnp.where(known, variance, 1.0))
        largest = lax.stop_gradient(jnp.max(jnp.where(known, roots, 0.0)))
        return jnp.where(known, roots, largest)

    def written(self, operands: Sequence[Array], held: Sequence[Array]) -> Array:
        return lax.rsqrt(*operands)


def chosen(regions: Mapping[int, Region], declared: Sequence[integer_norm]) -> set[int]:
    """The values that the normalisations leave which a scheme wants in integers.

    Raises:
        ValueError: a pattern matches none.
    """
    paths = {value: r.root.path for value, r in regions.items() if r.root is not None}
    for one in declared:
        if not any(map(one.matches, paths.values())):
            known = ", ".join(dict.fromkeys(paths.values())) or "none"
            raise ValueError(f"int8: {one!r} matches no normalisation; there are: {known}")
    return {value for value, path in paths.items() if any(one.matches(path) for one in declared)}


def place(grouping: Grouping, region: Region, rule: Rule) -> None:
    """Append the groups of a normalisation; ``rule`` groups what is no root.

    Raises:
        ValueError: it is none over the last axis.
    """
    ops, root = _without_rectifier(grouping, region.ops), region.root
    norm = next((n for n in _norms(grouping, ops, root) if _is_one(grouping, ops, n)), None)
    if norm is None:
        refuse(
            root,
            "only a LayerNorm or an RMSNorm over the last axis has an integer form",
            "let the patterns of integer_norm leave it out, then it is a float island; or use BatchNorm",
        )
    source = grouping.resolved(norm.source)
    _, new = grouping.emit(norm.normalized, [source], root.path)
    grouping.read(new)
    if not norm.chain:
        new[-1] = dataclasses.replace(new[-1], outputs=(norm.last,))
        grouping.taken.discard(norm.last)
    for op in new:
        if op.name == "rsqrt":
            _root(grouping, op)
        elif op.outputs[0] not in grouping.taken:
            rule(grouping, op)
    if norm.chain:
        _scale(grouping, new[-1], norm)


def _without_rectifier(grouping: Grouping, ops: Sequence[Op]) -> Sequence[Op]:
    """The operations of a normalisation but for a rectifier, which joins the scaling."""
    if rectified(ops[-1], None) is None:
        return ops
    grouping.taken.difference_update(ops[-1].outputs)
    return ops[:-1]


def _root(grouping: Grouping, op: Op) -> None:
    name, reads = grouping.name(op), op.inputs
    grouping.add(Root(name, name, reads, op.outputs, op, (op,), reads, kind=functions.RSQRT))


def _scale(grouping: Grouping, op: Op, norm: Norm) -> None:
    """Factors and biases, and a rectifier behind them."""
    name, channels = grouping.name(op, "scale"), grouping.program.shape(norm.last)[-1:]
    clamp, value = grouping.absorb_clamp(norm.last)
    clip = grouping.clip_after(value)
    inputs, outputs = op.outputs, (value,)
    grouping.add(Weighted(name, name, inputs, outputs, op, None, norm.chain, channels, clamp, clip))


def _norms(grouping: Grouping, ops: Sequence[Op], root: Op) -> Iterator[Norm]:
    """What the operations may be, if they are put together as those of a normalisation are."""
    reads, _ = read_by(grouping, ops)
    if len(reads) == 1 and root.name == "rsqrt":
        chain = tuple(_chain(grouping, ops, root))
        for centres in (True, False):
            yield Norm(reads[0], centres, _epsilon(ops, root), chain, ops[-1].outputs[0])


def _chain(grouping: Grouping, ops: Sequence[Op], root: Op) -> Iterator[Affine]:
    """The factors and biases on the way from the root of the variance to the end."""
    channels = grouping.program.shape(ops[-1].outputs[0])[-1:]
    value, last = root.outputs[0], ops[-1].outputs[0]
    while value != last:
        op = next(op for op in ops if value in op.inputs)
        if (step := grouping.affine(op, value, channels)) is not None:
            yield step
        value = op.outputs[0]


def _epsilon(ops: Sequence[Op], root: Op) -> float:
    """What is added to the variance."""
    added = [op for op in ops if op.name == "add" and op.outputs == root.inputs]
    numbers = [scalar(value) for op in added for value in op.inputs]
    return next((number for number in numbers if number is not None), 0.0)


def _is_one(grouping: Grouping, ops: Sequence[Op], norm: Norm) -> bool:
    """Whether the operations compute what is written for them, of numbers that are drawn."""
    rng, shape = np.random.default_rng(0), grouping.program.shape
    _, held = read_by(grouping, ops)
    drawn = {v: np.float32(rng.normal(size=shape(v))) for v in (norm.source, *held)}
    channels = shape(norm.last)[-1:]
    with jax.ensure_compile_time_eval():  # a plan may be made while a model is traced
        values: dict[Value, Array] = {v: jnp.asarray(array) for v, array in drawn.items()}
        run(ops, values)
        ones = jnp.ones((1, *channels))
        folded = fold(ones, norm.chain, channels, values)
        normalized, found = norm.normalized(values[norm.source]), values[norm.last]
    factor, shift = map(np.asarray, folded)
    expected = np.asarray(normalized) * factor[0] + shift
    return bool(np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE))
