"""Program: a traced model as one flat list of operations, each with the path of the module it came from.

Tracing sees every tensor of a model, the user's own included, and needs no change to its code.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxmini.compress.quantize.forms import form_of
from jaxmini.compress.quantize.sections import PARTS, Joined, sections, taken
from jaxmini.compress.quantize.tracing import explained
from jaxmini.compress.quantize.unrolling import Scope, unroll
from jaxmini.compress.quantize.widening import is_float_cast, wide_array, wide_type, widened
from jaxmini.compress.quantize.zeros import dissolved, note_repeated, unrepeated
from jaxmini.model import Model, Variables
from jaxmini.state import Array, PyTree

# Calls whose body is part of the program. A custom_jvp_call stays whole (its derivative is its own: relu's
# is 0 at 0, that of max is 1/2), unless it hides a convolution or a matrix product.
INLINED = frozenset({"jit", "pjit", "closed_call", "core_call", "remat2"})
PRODUCTS = frozenset({"conv_general_dilated", "dot_general"})


@dataclasses.dataclass(frozen=True, eq=False)
class Literal:
    """A value known when the program was traced."""

    value: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape


Value: TypeAlias = int | Literal


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """One operation of a program.

    Attributes:
        name: the primitive's name, or the function's for a call that is kept whole (``relu``).
        path: the module it came from, as ``Net/block_1/Conv_0``.
        inputs, outputs: its values.
        primitive, params: what JAX runs.
    """

    name: str
    path: str
    inputs: tuple[Value, ...]
    outputs: tuple[int, ...]
    primitive: core.Primitive
    params: dict[str, Any]

    def bind(self, *operands: Array, **changes: Any) -> list[Array]:
        """Run the operation on other operands, with changes to its parameters; one result an output."""
        params = self.primitive.get_bind_params(self.params | changes)
        results = self.primitive.bind(*operands, **params)
        return list(results) if self.primitive.multiple_results else [results]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A model's inference as a flat list of operations that the output needs.

    Attributes:
        ops: in an order in which they can run.
        variables: one value a leaf of the variables, in the order of ``jax.tree.leaves``.
        input, output: the values of the model's input and output.
        types: shape and dtype of every value.
        structure: the tree of the variables it was traced with.
    """

    ops: tuple[Op, ...]
    variables: tuple[int, ...]
    input: int
    output: Value
    types: Mapping[int, jax.core.ShapedArray]
    structure: jax.tree_util.PyTreeDef

    def shape(self, value: Value) -> tuple[int, ...]:
        return value.shape if isinstance(value, Literal) else self.types[value].shape

    def bind_variables(self, variables: Variables) -> dict[int, Array]:
        """The values of the program that are the model's variables.

        Raises:
            ValueError: the variables have another tree than those of the trace.
        """
        leaves, structure = jax.tree.flatten(variables)
        if structure != self.structure:
            raise ValueError(
                f"the program was traced with variables of the structure {self.structure}, "
                f"and is given {structure}: make the plan with the variables it will run on"
            )
        return dict(zip(self.variables, map(wide_array, leaves), strict=True))

    def __call__(self, variables: Variables, inputs: Array) -> Array:
        """What the model returns in inference."""
        values = self.bind_variables(variables) | {self.input: inputs}
        run(self.ops, values)
        return read(values, self.output)


def read(values: Mapping[int, Array], value: Value) -> Array:
    """A value's array."""
    return value.value if isinstance(value, Literal) else values[value]


def run(ops: Iterable[Op], values: dict[int, Array]) -> None:
    """Run operations in order, adding their results to ``values``."""
    for op in ops:
        results = op.bind(*(read(values, value) for value in op.inputs))
        values.update(zip(op.outputs, results, strict=True))


def dependents(ops: Iterable[Op], sources: Iterable[int]) -> set[int]:
    """All values that depend on one of ``sources``, these included."""
    known = set(sources)
    for op in ops:
        if not known.isdisjoint(value for value in op.inputs if isinstance(value, int)):
            known.update(op.outputs)
    return known


def needed(ops: Iterable[Op], results: Iterable[Value]) -> tuple[Op, ...]:
    """The operations, in order, that ``results`` need."""
    wanted, kept = {value for value in results if isinstance(value, int)}, []
    for op in reversed(tuple(ops)):
        if not wanted.isdisjoint(op.outputs):
            kept.append(op)
            wanted.update(value for value in op.inputs if isinstance(value, int))
    return tuple(reversed(kept))


def trace(model: Model, variables: Variables, inputs: PyTree) -> Program:
    """The program of ``model.apply(variables, inputs, train=False)[0]``; arrays or ShapeDtypeStructs.

    Raises:
        ValueError: the model changes its variables in inference, or does not map one array to one array; or
            as ``explained``.
    """
    try:
        with explained("quantize", model, variables, inputs):
            closed = jax.make_jaxpr(functools.partial(_infer, model))(variables, inputs)
    except flax.errors.ModifyScopeVariableError as error:
        raise ValueError(
            "quantize: the model updates its statistics at train=False, so it runs BatchNorm on batch "
            "statistics in inference too: give the module a `train` argument and write "
            "nn.BatchNorm(use_running_average=not train)"
        ) from error
    leaves = jax.tree.leaves(inputs)
    if len(leaves) != 1 or len(closed.jaxpr.outvars) != 1:
        raise ValueError(
            f"quantize: expected a model from one array to one array, got {len(leaves)} inputs and "
            f"{len(closed.jaxpr.outvars)} outputs: wrap it in a module that returns the logits alone"
        )
    flat = _Flattening()
    invars = [flat.new(var.aval) for var in closed.jaxpr.invars]
    flat.active.add(invars[-1])
    (output,) = flat.inline(closed.jaxpr, closed.consts, invars, Scope())
    ops = needed(flat.ops, [output])
    structure = jax.tree.structure(variables)
    return Program(ops, tuple(invars[:-1]), invars[-1], output, flat.types, structure)


def extended(
    program: Program, function: Callable, arguments: list[Value], path: str
) -> tuple[Program, list[Value]]:
    """The program with the operations of ``function`` on some of its values at the end; its results."""
    flat = _Flattening()
    flat.ops, flat.types = list(program.ops), dict(program.types)
    results = flat.traced(function, arguments, Scope(path))
    return dataclasses.replace(program, ops=tuple(flat.ops), types=flat.types), results


def opened(program: Program, ops: Iterable[Op]) -> Program:
    """Some operations of a program, whose last leaves the output, with calls that are kept whole inlined."""
    flat, names = _Flattening(opens=True), {}
    flat.types = dict(program.types)
    for op in ops:
        inputs = tuple(names.get(v, v) if isinstance(v, int) else v for v in op.inputs)
        if op.primitive.name.startswith("custom_"):
            body = op.params.get("jaxpr", op.params.get("call_jaxpr"))
            results = flat.inline(
                _open(body), getattr(body, "consts", ()), list(inputs), Scope(op.path)
            )
            names.update(zip(op.outputs, results, strict=True))
        else:
            flat.ops.append(dataclasses.replace(op, inputs=inputs))
    output = names.get(op.outputs[0], op.outputs[0])
    return dataclasses.replace(program, ops=tuple(flat.ops), output=output, types=flat.types)


def _infer(model: Model, variables: Variables, inputs: PyTree) -> PyTree:
    return model.apply(variables, inputs, train=False)[0]


class _Flattening:
    """Inlines calls, unrolls scans of what is ``active``, and computes what depends on nothing.

    Attributes:
        opens: whether calls with derivatives of their own are inlined too.
        active: the values that depend on the input.
        joins: those of them that are joined of others.
        repeated: values that only repeat another along the batch.
    """

    def __init__(self, *, opens: bool = False) -> None:
        self.opens = opens
        self.ops: list[Op] = []
        self.types: dict[int, jax.core.ShapedArray] = {}
        self.active: set[int] = set()
        self.joins: dict[int, Joined] = {}
        self.repeated: dict[int, Value] = {}

    def new(self, aval: jax.core.ShapedArray) -> int:
        self.types[len(self.types)] = wide_type(aval)
        return len(self.types) - 1

    def inline(
        self,
        jaxpr: core.Jaxpr,
        consts: Iterable[Array],
        arguments: list[Value],
        scope: Scope,
    ) -> list[Value]:
        """Append the operations of a jaxpr; returns its results."""
        names: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        names |= {var: _literal(c) for var, c in zip(jaxpr.constvars, consts, strict=True)}

        def value_of(atom: Any) -> Value:
            return _literal(atom.val) if isinstance(atom, core.Literal) else names[atom]

        for equation in jaxpr.eqns:
            inside = scope.enter(str(equation.source_info.name_stack))
            operands = [value_of(atom) for atom in equation.invars]
            results = self.equation(equation, operands, inside)
            names.update(zip(equation.outvars, results, strict=True))
        return [value_of(atom) for atom in jaxpr.outvars]

    def traced(self, function: Callable, arguments: list[Value], scope: Scope) -> list[Value]:
        """Append the operations that ``function`` traces to; returns its results."""
        types = [v.value if isinstance(v, Literal) else self.types[v] for v in arguments]
        specs = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in types]
        closed = jax.make_jaxpr(function)(*specs)
        return self.inline(closed.jaxpr, closed.consts, arguments, scope)

    def equation(self, equation: Any, operands: list[Value], scope: Scope) -> list[Value]:
        name = equation.primitive.name
        body = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if is_float_cast(equation):
            return operands
        operands = unrepeated(self, equation, operands)
        if (known := dissolved(self, equation, operands)) is not None:
            return [known]
        if (form := form_of(equation)) is not None:
            return self.traced(form, operands, scope)
        is_custom = name.startswith("custom_")
        if name in INLINED or (is_custom and (self.opens or _has_product(_open(body)))):
            return self.inline(_open(body), getattr(body, "consts", ()), operands, scope)
        is_active = not self.active.isdisjoint(v for v in operands if isinstance(v, int))
        if name == "scan" and is_active:
            return unroll(self, equation, operands, scope)
        if name in PARTS and (parts := self.parts(equation, operands, scope)) is not None:
            return parts
        if is_custom:
            name = _function_name(_open(body)) or name
        primitive, params = widened(equation, _runner)
        outputs = tuple(self.new(var.aval) for var in equation.outvars)
        op = Op(name, scope.path, tuple(operands), outputs, primitive, params)
        if all(isinstance(value, Literal) for value in operands):
            with jax.ensure_compile_time_eval():
                return [_literal(r) for r in op.bind(*(v.value for v in operands))]
        self.active.update(outputs if is_active else ())
        self.ops.append(op)
        note_repeated(self, op)
        if name == "concatenate" and is_active:
            axis = params["dimension"]
            sizes = tuple(self.shape(value)[axis] for value in operands)
            self.joins[outputs[0]] = Joined(tuple(operands), sizes, axis)
        return list(outputs)

    def shape(self, value: Value) -> tuple[int, ...]:
        return value.shape if isinstance(value, Literal) else self.types[value].shape

    def parts(self, equation: Any, operands: list[Value], scope: Scope) -> list[Value] | None:
        """What an operation takes of a join, taken of what was joined; None where it has to be the join."""
        source, *starts = operands
        if source not in self.joins or not all(isinstance(start, Literal) for start in starts):
            return None
        name, places = equation.primitive.name, [start.value for start in starts]
        wanted = sections(name, equation.params, self.shape(source), places)
        found = [taken(self, self.joins[source], part, scope) for part in wanted]
        return None if any(value is None for value in found) else found


def _literal(array: Array) -> Literal:
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):  # numpy has no such type
        return Literal(array)
    return Literal(wide_array(np.asarray(array)))


def _runner(closed: Any) -> Callable[..., list[Array]]:
    """A function of wide arrays that computes what a closed jaxpr says."""
    flat = _Flattening(opens=True)
    arguments = [flat.new(var.aval) for var in closed.jaxpr.invars]
    results = flat.inline(closed.jaxpr, closed.consts, arguments, Scope())

    def function(*arrays: Array) -> list[Array]:
        values = dict(zip(arguments, arrays, strict=True))
        run(flat.ops, values)
        return [jnp.asarray(read(values, value)) for value in results]

    return function


def _open(jaxpr: Any) -> core.Jaxpr:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _function_name(jaxpr: core.Jaxpr) -> str | None:
    """The name of the jitted function that is the whole of a body: ``relu`` in jax.nn.relu's."""
    return jaxpr.eqns[0].params.get("name") if len(jaxpr.eqns) == 1 else None


def _bodies(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    return (_open(value) for value in params.values() if hasattr(_open(value), "eqns"))


def _has_product(jaxpr: core.Jaxpr) -> bool:
    return any(
        equation.primitive.name in PRODUCTS or any(map(_has_product, _bodies(equation.params)))
        for equation in jaxpr.eqns
    )
