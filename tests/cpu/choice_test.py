"""Choice: what a shape gets is the convolution it stands for, in value and both gradients, for any shape."""

import ast
import dataclasses
import inspect
import types
from collections.abc import Iterable

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxmini.cpu.choice
from jaxmini.cpu import convolution
from jaxmini.cpu.choice import Choice
from tests.cpu.case import NETS, Case, Equation, chosen, convolutions, net
from tests.cpu.reference import evaluate, operands

KINDS = ("dense", "depthwise", "narrowing", "grouped", "by batch")


@st.composite
def cases(draw: st.DrawFn, kinds: Iterable[str] = KINDS, dilated: bool = True) -> Case:
    """Any convolution of one or two axes whose result is not empty."""
    rank = draw(st.integers(1, 2))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    def layout(letters: str) -> str:
        return "".join(draw(st.permutations(letters)))

    kernel, stride = axes(1, 4), axes(1, 3)
    if draw(st.integers(0, 3)) == 0:
        stride = kernel
    lhs_dilation = axes(1, 3) if dilated and draw(st.booleans()) else (1,) * rank
    rhs_dilation = axes(1, 3) if dilated and draw(st.booleans()) else (1,) * rank
    padded = draw(st.booleans())
    padding = tuple(zip(axes(-2, 3), axes(-2, 3), strict=True)) if padded else ((0, 0),) * rank
    smallest = (
        max(1 - min(0, *around), -(-((taps - 1) * apart - sum(around)) // between) + 1)
        for taps, apart, around, between in zip(
            kernel, rhs_dilation, padding, lhs_dilation, strict=True
        )
    )
    size = tuple(least + draw(st.integers(0, 6)) for least in smallest)
    batch, (features, out_features, groups) = draw(st.integers(1, 3)), draw(_features(kinds))
    by_batch = groups < 0
    return Case(
        batch * abs(groups) if by_batch else batch,
        size,
        features,
        kernel,
        out_features,
        stride,
        padding,
        lhs_dilation,
        rhs_dilation,
        abs(groups),
        by_batch,
        (layout("NCHW"[: 2 + rank]), layout("OIHW"[: 2 + rank]), layout("NCHW"[: 2 + rank])),
    )


def _features(kinds: Iterable[str]) -> st.SearchStrategy[tuple[int, int, int]]:
    """Features, features that come out, and groups: less than none where the batch falls into them."""
    few = st.integers(1, 4)
    shapes = {
        "dense": lambda a, b, _: (a, b, 1),
        "depthwise": lambda a, _, times: (a, a * times, a),
        "narrowing": lambda a, _, times: (a * times, a, a),
        "grouped": lambda a, b, _: (2 * a, 2 * b, 2),
        "by batch": lambda a, b, _: (a, 2 * b, -2),
    }
    return st.one_of(*(st.builds(shapes[kind], few, few, st.integers(1, 3)) for kind in kinds))


def check(pairs: Iterable[tuple[Choice, Equation]], tolerance: float = 1e-5) -> None:
    """What is chosen for each equation gives what the equation does. One program for all: that is quicker."""
    pairs = [(choice, equation) for choice, equation in pairs if choice.formulation]
    arrays = [operands(equation) for _, equation in pairs]
    results = jax.jit(
        lambda arrays: [choice(*pair) for (choice, _), pair in zip(pairs, arrays, strict=True)]
    )(arrays)
    for (choice, equation), pair, result in zip(pairs, arrays, results, strict=True):
        aval, expected = equation.outvars[0].aval, evaluate(equation, *pair)
        assert (result.shape, result.dtype) == (aval.shape, aval.dtype), choice.path
        assert error(result, expected) <= tolerance, (choice.path, equation)


def error(result: jax.Array, expected: np.ndarray) -> float:
    """The largest, relative to the largest value."""
    scale = np.abs(expected).max()
    return float(np.abs(np.asarray(result, np.float64) - expected).max() / (scale or 1.0))


@given(case=cases())
@settings(max_examples=30)
def test_any_convolution(case: Case):
    check((chosen(equation), equation) for equation in convolutions(case))


# Of the largest value: what halves round a result by, and sums of doubles.
OTHER_TYPES = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float64": 1e-13}


@given(case=cases(), dtype=st.sampled_from(list(OTHER_TYPES)))
@settings(max_examples=15)
def test_any_convolution_of_other_numbers(case: Case, dtype: str):
    with jax.enable_x64(dtype == "float64"):
        equations = convolutions(dataclasses.replace(case, dtype=dtype))
        check(((chosen(equation), equation) for equation in equations), OTHER_TYPES[dtype])


LARGE = [name for name in NETS if name.endswith("large")]


@pytest.mark.parametrize("name", LARGE)
@given(data=st.data())
@settings(max_examples=3)
def test_what_large_convolutions_get_is_right_for_small_ones(name: str, data: st.DataObject):
    """Of any size, that is: a sweep over large ones takes long."""
    large = NETS[name]
    features = data.draw(st.integers(1, 4))
    small = dataclasses.replace(
        large,
        batch=data.draw(st.integers(1, 10)),
        size=data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9))),
        features=features,
        out_features=features if large.groups > 1 else data.draw(st.integers(1, 4)),
        groups=min(large.groups, features),
        padding=data.draw(st.sampled_from(["SAME", "VALID", ((2, 0), (1, 2))])),
    )
    check(
        (
            dataclasses.replace(
                chosen(equation), formulation=given.formulation, is_filter=given.is_filter
            ),
            equation,
        )
        for equation, given in zip(
            convolutions(small), map(chosen, convolutions(large)), strict=True
        )
    )


# What takes long to compile, and is worth it for large ones alone.
SLOW_TO_COMPILE = {
    "winograd.forward",
    "winograd.filter_gradient",
    "turned.filter_gradient",
    "depthwise.filter_by_slabs",
}


def test_small_convolutions_get_what_compiles_fast():
    large = {chosen(equation).path for name in LARGE for equation in convolutions(NETS[name])}
    assert large >= SLOW_TO_COMPILE
    for name in LARGE:
        small = dataclasses.replace(NETS[name], batch=2, size=(8, 8))
        found = {chosen(equation).path for equation in convolutions(small)}
        assert not found & SLOW_TO_COMPILE, (name, found)


@pytest.mark.parametrize(
    ("size", "features", "out_features", "path"),
    [
        (32, 16, 16, "xla"),
        (32, 8, 16, "xla"),
        (16, 16, 16, "abreast.forward"),
        (32, 4, 16, "abreast.forward"),
        (32, 3, 16, "abreast.forward"),
        (32, 16, 8, "abreast.forward"),
    ],
)
def test_half_a_row_of_features_of_large_maps_is_left_to_xlas_threads(
    size: int, features: int, out_features: int, path: str
):
    forward, *_ = convolutions(net(size, features, 3, out_features))
    assert chosen(forward).path == path


@pytest.mark.parametrize("case", NETS.values(), ids=NETS)
def test_convolutions_of_nets(case: Case):
    check((chosen(equation), equation) for equation in convolutions(case))


def test_nets_reach_every_formulation():
    reached = {chosen(equation).path for case in NETS.values() for equation in convolutions(case)}
    assert reached - {"xla"} == _formulations()


def _formulations() -> set[str]:
    """The paths of all that the source of ``choice`` names."""
    modules = {
        name: value
        for name, value in vars(jaxmini.cpu.choice).items()
        if isinstance(value, types.ModuleType) and value is not convolution
    }
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(inspect.getsource(jaxmini.cpu.choice)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and modules[node.value.id].__name__.startswith("jaxmini.")
        and callable(getattr(modules[node.value.id], node.attr))
    }


# One of each kind: matrix products, multiply-adds, and what their strides leave out.
KINDS_OF_NETS = ("1x1, stride 2", "3x3, stride 2", "patches", "depthwise 3x3, stride 2")
OTHER_KINDS = ("rgb stem", "3x3, few features, large", "3x3, no border")
HALVES = [("bfloat16", name) for name in (*KINDS_OF_NETS, *OTHER_KINDS)]
HALVES.append(("float16", KINDS_OF_NETS[-1]))


@pytest.mark.parametrize(("dtype", "name"), HALVES)
def test_half_precision_is_rounded_once(dtype: str, name: str):
    """As near to the sum of the rounded operands as XLA's is, or half a step of the last place."""
    step = float(ml_dtypes.finfo(dtype).eps)
    for equation in convolutions(dataclasses.replace(NETS[name], dtype=dtype)):
        choice, pair = chosen(equation), operands(equation)
        if choice.formulation is None:
            continue
        ours, theirs = jax.jit(
            lambda a, b, choice=choice, equation=equation: (
                choice(a, b),
                equation.primitive.bind(a, b, **equation.params),
            )
        )(*pair)
        expected = evaluate(equation, *pair)
        assert ours.dtype == equation.outvars[0].aval.dtype
        assert error(ours, expected) <= step
        assert error(ours, expected) <= max(1.5 * error(theirs, expected), step / 2), choice.path


@pytest.mark.parametrize("name", KINDS_OF_NETS)
def test_double_precision_stays_double(name: str):
    with jax.enable_x64(True):
        equations = convolutions(dataclasses.replace(NETS[name], dtype="float64"))
        check(((chosen(equation), equation) for equation in equations), 1e-13)


@pytest.mark.parametrize("name", ["3x3, stride 2", "depthwise 3x3", "grouped"])
def test_the_reference_is_what_xla_computes(name: str):
    for equation in convolutions(NETS[name]):
        pair = operands(equation)
        theirs = equation.primitive.bind(*map(jax.numpy.asarray, pair), **equation.params)
        assert error(theirs, evaluate(equation, *pair)) <= 1e-5
