"""Products over any axes are those over the last ones between transposes; resizing is such a product."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from quantize_checks import check, names, plan_of, refusal
from quantize_nets import pictures

from jaxmini.compress.quantize.plan import Move, Weighted


class Einsum(nn.Module):
    equation: str
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), 3, name="stem")(x)
        return nn.relu(nn.Einsum(self.shape, self.equation, name="product")(x))


def test_einsum_over_channels_is_one_dense_with_its_bias_and_rectifier():
    plan, _ = check(Einsum("bhwc,co->bhwo", (4, 5)))
    _, product = plan.groups
    assert isinstance(product, Weighted)
    assert str(product) == "fold add, relu"


@pytest.mark.parametrize(
    ("equation", "shape"),
    [("bhwc,hk->bkwc", (4, 3)), ("bhwc,whk->bck", (4, 4, 6))],
)
def test_einsum_over_other_axes_is_a_product_between_transposes(equation, shape):
    plan, _ = check(Einsum(equation, shape))
    assert len(plan.weighted) == 2


class Resized(nn.Module):
    shape: tuple[int, int]
    method: str

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), 2, name="stem")(x))
        x = jax.image.resize(x, (x.shape[0], *self.shape, 4), self.method)
        return nn.Conv(2, (1, 1), name="head")(x)


@pytest.mark.parametrize(("shape", "method"), [((12, 9), "bilinear"), ((4, 6), "cubic")])
def test_resizing_is_a_product_an_axis(shape, method):
    plan, _ = check(Resized(shape, method), pictures(4))
    assert len(plan.weighted) == 2 + sum(size != 6 for size in shape)


@pytest.mark.parametrize("shape", [(12, 9)])
def test_nearest_resizing_moves(shape):
    plan, _ = check(Resized(shape, "nearest"), pictures(4))
    assert len(plan.weighted) == 2
    assert all(isinstance(group, Move) for group in plan.groups[1:-1])


def test_a_kernel_before_its_input_is_a_product_too():
    class Before(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.normal(1.0), (5, 12))
            return kernel @ x.mean(1)

    assert "Before:dense" in names(plan_of(Before()))
    check(Before())


def test_a_constant_convolved_by_an_activation_is_refused():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            picture = self.param("picture", nn.initializers.ones, (1, 12, 12, 3))
            layout = ("NHWC", "HWIO", "NHWC")
            kernel = nn.Dense(3)(x)[0, :3, :3, :, None]
            kernel = jnp.broadcast_to(kernel, (3, 3, 3, 2))
            return jax.lax.conv_general_dilated(
                picture, kernel, (1, 1), "SAME", dimension_numbers=layout
            )

    assert "its kernel is computed from the input" in refusal(Net())
