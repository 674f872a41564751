"""Convolutions: those of nets, and what jax makes of one, of its value and of its gradients."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from jaxmini.cpu.choice import Choice, Formulation, choose
from jaxmini.cpu.convolution import Convolution, describe

Equation = Any


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution. ``size``, ``kernel``, ``stride`` and so on have an entry an axis of space.

    Attributes:
        groups: into which the features fall, or the batch where ``by_batch``.
        layout: of the left operand, the right and the result; axes of space go in the order of the right's.
    """

    batch: int
    size: tuple[int, ...]
    features: int
    kernel: tuple[int, ...]
    out_features: int
    stride: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int = 1
    by_batch: bool = False
    layout: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC")
    dtype: str = "float32"

    @property
    def shapes(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Of the two operands."""
        space = self.layout[1].replace("O", "").replace("I", "")
        taken = self.features if self.by_batch else self.features // self.groups
        lhs = {"N": self.batch, "C": self.features} | dict(zip(space, self.size, strict=True))
        rhs = {"O": self.out_features, "I": taken} | dict(zip(space, self.kernel, strict=True))
        return tuple(
            jax.ShapeDtypeStruct(tuple(sizes[axis] for axis in layout), np.dtype(self.dtype))
            for sizes, layout in zip((lhs, rhs), self.layout, strict=False)
        )

    def __call__(self, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            self.stride,
            self.padding,
            self.lhs_dilation,
            self.rhs_dilation,
            self.layout,
            feature_group_count=1 if self.by_batch else self.groups,
            batch_group_count=self.groups if self.by_batch else 1,
        )


def net(
    size: int,
    features: int,
    kernel: int,
    out_features: int,
    *,
    stride: int = 1,
    padding: Any = "SAME",
    batch: int = 2,
    groups: int = 1,
) -> Case:
    """A convolution as nets have them: square, with the usual layout."""
    ones = (1, 1)
    return Case(
        batch=batch,
        size=(size, size),
        features=features,
        kernel=(kernel, kernel),
        out_features=out_features,
        stride=(stride, stride),
        padding=padding,
        lhs_dilation=ones,
        rhs_dilation=ones,
        groups=groups,
    )


def convolutions(case: Case) -> tuple[Equation, Equation, Equation]:
    """The equations of the value, of the input gradient and of the filter gradient."""
    lhs, rhs = case.shapes
    out = jax.eval_shape(case, lhs, rhs)
    return (
        _last(case, lhs, rhs),
        _last(lambda lhs, rhs, g: jax.vjp(lambda lhs: case(lhs, rhs), lhs)[1](g), lhs, rhs, out),
        _last(lambda lhs, rhs, g: jax.vjp(lambda rhs: case(lhs, rhs), rhs)[1](g), lhs, rhs, out),
    )


def _last(function: Callable[..., Any], *operands: jax.ShapeDtypeStruct) -> Equation:
    equations = jax.make_jaxpr(function)(*operands).eqns
    return [e for e in equations if e.primitive is lax.conv_general_dilated_p][-1]


def chosen(equation: Equation) -> Choice:
    return choose(*_avals(equation), equation.params)


def described(equation: Equation) -> Convolution:
    return describe(*_avals(equation), equation.params)


def forced(formulation: Formulation, equation: Equation, *, is_filter: bool = False) -> Choice:
    """A formulation for an equation that might be given another."""
    return Choice("a test", formulation, is_filter, described(equation))


def _avals(equation: Equation) -> list[Any]:
    return [variable.aval for variable in (*equation.invars, *equation.outvars)]


# As nets have them: every formulation is that of one of these or of a gradient of it.
NETS = {
    "rgb stem": net(16, 3, 3, 16),
    "rgb stem, stride 2": net(16, 3, 3, 16, stride=2),
    "rgb stem 7x7, stride 2": net(16, 3, 7, 8, stride=2),
    "1x1": net(8, 16, 1, 24),
    "1x1 to fewer": net(8, 24, 1, 16),
    "1x1, one pixel": net(1, 16, 1, 24),
    "1x1, stride 2": net(8, 16, 1, 24, stride=2),
    "1x1, stride 2, odd": net(7, 16, 1, 24, stride=2),
    "1x1, padded": net(5, 6, 1, 8, stride=2, padding=((1, 1), (1, 1))),
    "3x3": net(8, 16, 3, 16),
    "3x3, stride 2": net(8, 16, 3, 32, stride=2),
    "3x3, stride 2, odd": net(9, 16, 3, 32, stride=2),
    "3x3, stride 2, wide": net(8, 64, 3, 80, stride=2),
    "3x3, stride 2, many": net(4, 128, 3, 256, stride=2),
    "3x3, wide": net(8, 256, 3, 256, batch=1),
    "3x3, large": net(32, 64, 3, 64, batch=18),
    "3x3, many features, large": net(16, 128, 3, 128, batch=17),
    "3x3, few features, large": net(32, 16, 3, 16, batch=17),
    "3x3, no border": net(8, 32, 3, 32, padding="VALID"),
    "patches": net(16, 3, 4, 24, stride=4, padding="VALID"),
    "few patches": net(8, 3, 4, 24, stride=4, padding="VALID"),
    "patches with a rest": net(18, 3, 4, 24, stride=4, padding="VALID"),
    "depthwise 3x3": net(8, 16, 3, 16, groups=16),
    "depthwise 3x3, stride 2": net(8, 16, 3, 16, groups=16, stride=2),
    "depthwise 3x3, stride 2, odd": net(9, 16, 3, 16, groups=16, stride=2),
    "depthwise 3x3, multiplier 2": net(8, 8, 3, 16, groups=8),
    "depthwise 5x5": net(8, 8, 5, 8, groups=8),
    "depthwise 5x5, stride 2": net(8, 8, 5, 8, groups=8, stride=2),
    "depthwise 3x3, large": net(32, 32, 3, 32, batch=5, groups=32),
    "depthwise 3x3, stride 2, large": net(65, 32, 3, 32, batch=5, groups=32, stride=2, padding="VALID"),
    "grouped": net(8, 8, 3, 8, groups=2),
}  # fmt: skip
