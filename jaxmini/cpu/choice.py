"""Choice: which formulation a convolution gets, by its shape, and why.

The thresholds were measured on two cores with AVX-512; ``python -m benchmarks.convolutions`` shows how
they fare elsewhere.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxmini.cpu import abreast, bordered, convolution, dense, depthwise, turned, winograd
from jaxmini.cpu.convolution import Convolution, Pair
from jaxmini.cpu.window import meetings

Formulation = Callable[[jax.Array, jax.Array, Convolution], jax.Array]

# Every operation of a formulation stands under this name, as XLA's own does.
SCOPE = "conv_general_dilated"

# What Winograd's sums, which are not of integers alone where the operands are, are precise enough for.
PLAIN = (None, (None, None), (lax.Precision.DEFAULT, lax.Precision.DEFAULT))

# A kernel, or a filter gradient's result, of at most so many taps is written out tap by tap.
MOST_TAPS = 49

# Formulations that go over the batch in a loop.
LOOPS = (winograd.forward, winograd.filter_gradient, turned.filter_gradient)

# The layout of a left operand whose features are last already.
TURNED = (0, 3, 1, 2)

# So many products of a pixel and a tap are written out one by one; more take long to compile.
MOST_PRODUCTS = 200


@dataclasses.dataclass(frozen=True)
class Choice:
    """What becomes of a convolution.

    Attributes:
        why: in a few words.
        formulation: None leaves it to XLA.
        is_filter: the formulation takes the operands of a filter gradient.
        convolution: None where it is none that this room knows.
    """

    why: str
    formulation: Formulation | None = None
    is_filter: bool = False
    convolution: Convolution | None = None

    @property
    def path(self) -> str:
        """The formulation's name, for a reader: ``depthwise.multiply_add``; ``xla`` where there is none."""
        if self.formulation is None:
            return "xla"
        return f"{self.formulation.__module__.rpartition('.')[2]}.{self.formulation.__name__}"

    def __call__(self, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        """The convolution of two arrays, in its own layout."""
        c = self.convolution
        with jax.named_scope(f"{SCOPE}.{self.path}"):
            if self.is_filter:
                result = self.formulation(*convolution.as_examples(lhs, rhs, c), c)
                return convolution.from_kernel(result, c)
            result = self.formulation(*convolution.as_pictures(lhs, rhs, c), c)
            return convolution.from_pictures(result, c)


def choose(
    lhs: Any, rhs: Any, out: Any, params: Mapping[str, Any], *, partitioned: bool = False
) -> Choice:
    """The choice for a convolution.

    Args:
        lhs, rhs, out: its abstract operands and result.
        params: of the primitive.
        partitioned: XLA will cut it over several devices, and no loop may go over the batch.
    """
    objection = convolution.objection(lhs, rhs, out, params)
    if objection:
        return Choice(objection)
    c = convolution.describe(lhs, rhs, out, params)
    if c.feature_groups == c.batch_groups == 1:
        choice = _dense_filter(c) if _is_filter_gradient(c) else _dense(c)
    elif c.batch_groups == 1:
        choice = _depthwise(c)
    else:
        choice = _depthwise_filter(c)
    if partitioned and choice.formulation in LOOPS:
        choice = Choice(f"{choice.why}, cut over devices by XLA")
    return dataclasses.replace(choice, convolution=c)


def _dense(c: Convolution) -> Choice:
    if c.kernel == c.stride == (1, 1):
        return Choice("a 1x1 kernel is a matrix product", dense.pointwise)
    if c.kernel == (1, 1):
        return Choice("a strided 1x1 kernel: XLA's is as fast")
    if c.kernel == c.stride and not c.is_padded and not _is_dilated(c):
        return Choice("patches that do not overlap", dense.patches)
    if c.stride == c.rhs_dilation == (1, 1) and c.lhs_dilation != (1, 1) and _has_some(c):
        return Choice("a strided input gradient", dense.input_by_columns)
    if _is_dilated(c):
        return Choice("a dilated kernel")
    if c.kernel[1] > 1 and _is_narrow(c):
        return Choice("few features, some pixels side by side", abreast.forward)
    if c.stride != (1, 1):
        return Choice("a strided kernel: XLA's is as fast")
    choice = _winograd(c, c.kernel, c.out, c.batch, (c.features, c.out_features))
    if choice.formulation is None and not c.is_padded and c.out[0] > c.kernel[0]:
        return Choice("no border", bordered.forward)
    return choice


def _dense_filter(c: Convolution) -> Choice:
    if c.out == (1, 1):
        return Choice("a 1x1 filter gradient", dense.filter_by_columns, True)
    choice = Choice("a strided filter gradient", dense.filter_by_columns, True)
    if c.rhs_dilation == (1, 1):
        choice = _winograd(c, c.out, c.kernel, c.features, (c.batch, c.out_features))
        if choice.formulation is not None:
            return Choice(choice.why, winograd.filter_gradient, True)
    if _is_turned_in_parts(c):
        return Choice("a filter gradient, some pictures at a time", turned.filter_gradient, True)
    return choice


def _winograd(c: Convolution, kernel: Pair, out: Pair, examples: int, features: Pair) -> Choice:
    """For the convolution of ``examples`` pictures that a filter gradient, or ``c`` itself, belongs to."""
    if kernel != (3, 3):
        return Choice(f"a dense {kernel[0]}x{kernel[1]} kernel: XLA's is as fast")
    if c.dtype not in (jnp.float32, jnp.float64):
        return Choice(f"a dense 3x3 kernel in {c.dtype}")
    if c.precision not in PLAIN:
        return Choice("a dense 3x3 kernel, more precision asked for")
    if min(features) < 64:
        return Choice("a dense 3x3 kernel of few features: XLA's is as fast")
    if examples * math.prod(out) * math.prod(features) < winograd.WORTH:
        return Choice("a small dense 3x3 kernel: XLA's compiles faster")
    return Choice("a dense 3x3 kernel", winograd.forward)


def _is_filter_gradient(c: Convolution) -> bool:
    """Whether few results come of many positions: then the positions are the ones to sum over."""
    from_few = c.lhs_dilation == c.stride == (1, 1) and math.prod(c.out) <= MOST_TAPS
    return from_few and (c.taps > math.prod(c.out) or c.rhs_dilation != (1, 1))


def _is_narrow(c: Convolution) -> bool:
    """Whether results side by side, or one feature more where they are odd, outweigh what they add."""
    if c.features > 1 and c.features % 2 and c.out_features < 64:
        return True
    if c.features >= 24 or 2 * c.out_features > abreast.ROW or c.out[1] == 1:
        return False
    is_half = 2 * c.out_features == abreast.ROW and c.features >= abreast.SOME
    return not (is_half and math.prod(c.out) >= abreast.LARGE)


def _has_some(c: Convolution) -> bool:
    return min(c.features, c.out_features) >= 16 and c.taps <= MOST_TAPS


def _is_turned_in_parts(c: Convolution) -> bool:
    """Of more features on both sides columns need less time."""
    if c.stride != (1, 1) or c.layouts[0] == TURNED:
        return False
    numbers = c.features * max(math.prod(c.size) * c.batch, c.taps * c.out_features)
    return min(c.batch, c.out_features) <= 64 and numbers >= turned.WORTH


def _is_dilated(c: Convolution) -> bool:
    return not c.lhs_dilation == c.rhs_dilation == (1, 1)


def _depthwise(c: Convolution) -> Choice:
    inputs, outputs = c.group_features, c.out_features // c.feature_groups
    if min(inputs, outputs) > 1:
        return Choice("groups of several features to several")
    if c.taps > MOST_TAPS:
        return Choice(f"depthwise, {c.taps} taps")
    if _few_products(c):
        return Choice("depthwise on a small map", depthwise.multiply_add_pixels)
    if c.lhs_dilation != (1, 1) and c.stride == c.rhs_dilation == (1, 1):
        return Choice("a strided depthwise input gradient", depthwise.input_by_phases)
    return Choice("depthwise", depthwise.multiply_add)


def _depthwise_filter(c: Convolution) -> Choice:
    if c.batch != c.batch_groups or c.feature_groups != 1:
        return Choice("a filter gradient of groups of several features")
    if _few_products(c):
        return Choice(
            "a depthwise filter gradient on a small map", depthwise.filter_by_pixels, True
        )
    if c.lhs_dilation != (1, 1) or math.prod(c.out) > MOST_TAPS:
        return Choice("a depthwise filter gradient, dilated or large")
    if c.features * c.taps * c.out_features < depthwise.SMALL:
        return Choice("a small depthwise filter gradient", depthwise.filter_by_sums, True)
    return Choice("a depthwise filter gradient", depthwise.filter_by_slabs, True)


def _few_products(c: Convolution) -> bool:
    return len(meetings(c, 0)) * len(meetings(c, 1)) <= MOST_PRODUCTS
