"""Unrolling: a scan over layers as its steps one after another, each with grids of its own.

An integer file has one scale a tensor, so layers that share one loop body cannot share one group.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
from jax import lax
from jax.extend import core

from jaxmini.state import Array

LONGEST = 64


class Scope(NamedTuple):
    """Where an equation stands: the path of its module, and the step of a loop that is not in it yet."""

    prefix: str = ""
    step: int | None = None

    def enter(self, stack: str) -> "Scope":
        """The scope of names below this one; the first of them takes the step's number."""
        if not stack:
            return self
        if self.step is not None:
            first, slash, rest = stack.partition("/")
            stack = f"{first}_{self.step}{slash}{rest}"
        return Scope(f"{self.prefix}/{stack}" if self.prefix else stack)

    @property
    def path(self) -> str:
        """The path of an operation that stands here."""
        return (
            self.prefix if self.step is None else Scope(self.prefix).enter(f"scan_{self.step}").path
        )


class Flattening(Protocol):
    """What gathers operations: ``program.trace``'s own."""

    def inline(
        self,
        jaxpr: core.Jaxpr,
        consts: Iterable[Array],
        arguments: list[Any],
        scope: "Scope",
    ) -> list[Any]:
        """Append the operations of a jaxpr; returns its results."""

    def traced(self, function: Callable, arguments: list[Any], scope: Scope) -> list[Any]:
        """Append the operations that ``function`` traces to; returns its results."""


def unroll(flat: Flattening, equation: Any, operands: list[Any], scope: Scope) -> list[Any]:
    """The results of a scan whose every step is appended to ``flat``.

    Step ``i`` of ``Net/layers`` is called ``Net/layers_i``.

    Raises:
        ValueError: the scan has more than 64 steps.
    """
    params = equation.params
    length, body = params["length"], params["jaxpr"]
    if length > LONGEST:
        raise ValueError(
            f"quantize: a scan of {length} steps ('scan' in {scope.path or 'the model'}) is longer than the "
            f"{LONGEST} that are unrolled: an integer file holds each step's operators; cut its length, "
            "or leave that part out of the quantized model"
        )
    fixed, carried = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, stacks = operands[:fixed], operands[fixed:carried], operands[carried:]
    rows: dict[int, list[Any]] = {}
    for step in sorted(range(length), reverse=params["reverse"]):
        index = functools.partial(lax.index_in_dim, index=step, keepdims=False)
        slices = [flat.traced(index, [stack], scope)[0] for stack in stacks]
        inside = Scope(scope.path, step)
        results = flat.inline(body.jaxpr, body.consts, [*consts, *carry, *slices], inside)
        carry, rows[step] = results[: len(carry)], results[len(carry) :]
    columns = zip(*(rows[step] for step in range(length)), strict=True)
    return [*carry, *(flat.traced(_stacked, list(column), scope)[0] for column in columns)]


def _stacked(*rows: jax.Array) -> jax.Array:
    return lax.concatenate([lax.expand_dims(row, (0,)) for row in rows], 0)
