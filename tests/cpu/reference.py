"""A convolution in float64, by NumPy."""

from typing import Any

import jax
import numpy as np

from jaxmini.cpu.choice import Formulation
from tests.cpu.case import Equation, forced


def operands(equation: Equation) -> list[np.ndarray]:
    """Random operands of an equation, rounded to its dtype."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=v.aval.shape).astype(v.aval.dtype) for v in equation.invars]


def integers(equation: Equation) -> list[np.ndarray]:
    """Small integers as operands, whose sums are exact in every order."""
    rng = np.random.default_rng(0)
    return [rng.integers(-4, 5, v.aval.shape).astype(v.aval.dtype) for v in equation.invars]


def check_exact(formulation: Formulation, equation: Equation, *, is_filter: bool = False) -> None:
    """See that a formulation gives the equation's result of small integers, to the last bit."""
    choice, arrays = forced(formulation, equation, is_filter=is_filter), integers(equation)
    result = jax.jit(lambda lhs, rhs: choice(lhs, rhs))(*arrays)
    np.testing.assert_array_equal(result, evaluate(equation, *arrays))


def evaluate(equation: Equation, lhs: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """The equation in float64."""
    params = equation.params
    numbers, space = params["dimension_numbers"], len(params["window_strides"])
    x = dilated(lhs.astype(np.float64).transpose(numbers.lhs_spec), params["lhs_dilation"])
    w = dilated(rhs.astype(np.float64).transpose(numbers.rhs_spec), params["rhs_dilation"])
    x = padded(x, params["padding"])
    seen = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], tuple(range(2, x.ndim)))
    seen = seen[
        (..., *(slice(None, None, by) for by in params["window_strides"]), *[slice(None)] * space)
    ]
    by_feature, by_batch = params["feature_group_count"], params["batch_group_count"]
    parts = np.split(seen, by_feature, 1) if by_batch == 1 else np.split(seen, by_batch, 0)
    window = tuple(range(-space, 0))
    y = [
        np.moveaxis(np.tensordot(x, w, ((1, *window), (1, *window))), -1, 1)
        for x, w in zip(parts, np.split(w, by_feature * by_batch), strict=True)
    ]
    return np.concatenate(y, 1).transpose(np.argsort(numbers.out_spec))


def dilated(x: np.ndarray, by: tuple[int, ...]) -> np.ndarray:
    space = [(length - 1) * step + 1 for length, step in zip(x.shape[2:], by, strict=True)]
    y = np.zeros((*x.shape[:2], *space))
    y[(..., *(slice(None, None, step) for step in by))] = x
    return y


def padded(x: np.ndarray, padding: Any) -> np.ndarray:
    x = np.pad(x, [(0, 0), (0, 0), *(tuple(max(side, 0) for side in axis) for axis in padding)])
    return x[
        (
            ...,
            *(
                slice(max(-a, 0), n - max(-b, 0))
                for n, (a, b) in zip(x.shape[2:], padding, strict=True)
            ),
        )
    ]
