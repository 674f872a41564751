"""A transposed convolution is the ordinary one of its phases, whatever its kernel, stride and padding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from quantize_checks import check, names, plan_of, refusal
from quantize_nets import pictures

from jaxmini.compress.quantize import make_plan
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.model import from_linen


class Decoder(nn.Module):
    """Pictures to pictures; the normalisation after the transposed convolution folds into it."""

    kernel: int = 3
    stride: int = 2
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), 2, name="down")(x))
        window, steps = (self.kernel, 2), (self.stride, 1)
        up = nn.ConvTranspose(5, window, steps, padding=self.padding, use_bias=False, name="up")
        x = nn.relu(nn.BatchNorm(use_running_average=True)(up(x)))
        return nn.ConvTranspose(2, (4, 4), (2, 2), transpose_kernel=True, name="head")(x)


def test_golden():
    text = str(plan_of(Decoder(), pictures()))
    assert text == (
        """\
plan [4, 12, 12, 3] -> [4, 24, 12, 2]: 9 groups, 4 grids
  Decoder/down:conv            fold add, relu          of input
  Decoder/up:conv_transpose    fold sub mul add, relu  of Decoder/down:conv
  Decoder/up:reshape                                   on Decoder/up:conv_transpose
  Decoder/up:transpose                                 on Decoder/up:conv_transpose
  Decoder/up:reshape_1                                 on Decoder/up:conv_transpose
  Decoder/head:conv_transpose  fold add                of Decoder/up:conv_transpose
  Decoder/head:reshape                                 on Decoder/head:conv_transpose
  Decoder/head:transpose                               on Decoder/head:conv_transpose
  Decoder/head:reshape_1                               on Decoder/head:conv_transpose"""
    )


@pytest.mark.parametrize("form", [(3, 2, "SAME"), (5, 3, "VALID")])
def test_the_file_computes_it(form):
    check(Decoder(*form), pictures(4))


class Spread(nn.Module):
    """One convolution of any form ``lax.conv_general_dilated`` can spread its input in."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[tuple[int, int], ...]

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.normal(1.0), (*self.kernel, 2, 3))
        layout, steps = ("NHWC", "HWIO", "NHWC"), {"lhs_dilation": self.stride}
        x = lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=layout,
            **steps,
        )
        return x + self.param("bias", nn.initializers.normal(1.0), (1, 1, 1, 3))


def spread_by_hand(form, variables, x):
    """The sum over taps and input pixels that meet, in float64."""
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    (height, top), (width, left) = (
        ((n - 1) * s + 1 + sum(p) - (k - 1) * d, p[0])
        for n, k, s, d, p in zip(
            x.shape[1:3], form.kernel, form.stride, form.dilation, form.padding, strict=True
        )
    )
    assume(height > 0 and width > 0)
    result = np.zeros((len(x), height, width, 3)) + bias
    for i, j in np.ndindex(*x.shape[1:3]):
        for k, m in np.ndindex(*form.kernel):
            row = i * form.stride[0] + top - k * form.dilation[0]
            column = j * form.stride[1] + left - m * form.dilation[1]
            if 0 <= row < height and 0 <= column < width:
                result[:, row, column] += np.asarray(x)[:, i, j] @ kernel[k, m].astype(float)
    return result


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


forms = st.builds(
    Spread, pairs(1, 5), pairs(1, 4), pairs(1, 3), st.tuples(pairs(0, 6), pairs(0, 6))
)


@given(forms, pairs(1, 5))
@settings(max_examples=10)
def test_every_form_computes_the_model(form, size):
    assume(form.stride != (1, 1))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 2)).astype(np.float32)
    variables = {
        "params": {
            "kernel": rng.normal(size=(*form.kernel, 2, 3)).astype(np.float32),
            "bias": rng.normal(size=(1, 1, 1, 3)).astype(np.float32),
        }
    }
    expected = spread_by_hand(form, variables, x)
    plan = make_plan(from_linen(form), variables, x)
    found = jax.jit(lambda v, x: evaluate(plan, Float(plan, v), x))(variables, x)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert names(plan)[0].endswith("conv_transpose")


def test_the_phases_of_a_kernel_hold_each_tap_once():
    form = Spread((3, 3), (2, 2), (1, 1), ((2, 1), (2, 1)))
    model, x = from_linen(form), jnp.ones((1, 2, 2, 2))
    variables = model.init(jax.random.key(0), x)
    plan = make_plan(model, variables, x)
    (group,) = plan.weighted
    kernel = np.asarray(Float(plan, variables).weight(group)[0])
    taps = np.asarray(variables["params"]["kernel"])
    assert kernel.shape == (2, 2, 2, 4 * 3)
    np.testing.assert_array_equal(np.sort(kernel[kernel != 0]), np.sort(taps.ravel()))


REFUSED = {
    "groups": (
        {"feature_group_count": 2},
        (3, 3, 1, 4),
        "it is a transposed convolution of groups",
    ),
    "strides": ({"window_strides": (2, 2)}, (3, 3, 2, 4), "it spreads its input and strides"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_refused(name):
    changes, shape, message = REFUSED[name]

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(2, (1, 1))(x)
            kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
            asked = {"window_strides": (1, 1), "padding": ((0, 0),) * 2, "lhs_dilation": (2, 2)}
            layout = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(
                x, kernel, dimension_numbers=layout, **(asked | changes)
            )

    assert message in refusal(Net(), pictures())
