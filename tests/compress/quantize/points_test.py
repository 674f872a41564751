"""A point is nothing to the model; the plan rounds there, under the name that its author gave."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_checks import check
from quantize_nets import pictures, start

from jaxmini.compress.quantize import int8, make_plan, mse, quant_point, quantize, rule
from jaxmini.compress.quantize.plan import Rectifier
from jaxmini.export.flatbuffer import read
from jaxmini.model import from_linen


class Net(nn.Module):
    """A dense layer with a point before the scaling that would be folded."""

    marked: bool = True

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(6, name="dense")(x)
        y = (quant_point(y, "before") if self.marked else y) * 0.5
        return nn.Dense(3, name="head")(nn.relu(y).mean((1, 2)))


def test_it_is_the_identity():
    x = jnp.arange(6.0).reshape(2, 3)

    def f(x):
        return jnp.sum(jnp.square(quant_point(x, "here")))

    np.testing.assert_array_equal(jax.jit(lambda x: quant_point(x, "here"))(x), x)
    np.testing.assert_array_equal(jax.grad(f)(x), 2 * x)
    np.testing.assert_array_equal(jax.vmap(f)(x), [5, 50])


def test_a_group_ends_there_and_has_its_name():
    model, x = from_linen(Net()), pictures()
    variables = start(model, x)
    plan = make_plan(model, variables, x)
    assert [group.name for group in plan.groups] == [
        "Net/before:dense",
        "Net:scale",
        "Net:mean",
        "Net/head:dense",
    ]
    assert plan.groups[0].site == "Net/before:dense"
    plain = make_plan(from_linen(Net(marked=False)), variables, x)
    assert next(group.name for group in plain.groups) == "Net/dense:dense"
    assert len(plain.groups) == 3
    scheme = int8(rules=(rule("before", estimator=mse()),))
    ruled = make_plan(quantize(model, scheme), {**variables, "quant": {}}, x)
    assert ruled.estimator("Net/before:dense") == mse()


def test_what_is_only_moved_cannot_be_marked():
    class Moved(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = quant_point(nn.max_pool(nn.Conv(4, (3, 3))(x), (2, 2), (2, 2)), "pool")
            return y.mean((1, 2))

    model, x = from_linen(Moved()), pictures()
    with pytest.raises(ValueError, match=r"'pool' marks numbers .* right after the operation"):
        make_plan(model, start(model, x), x)
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        quant_point(x, "a/b")
    with pytest.raises(TypeError, match="quant_point: name is 3, expected a text of letters"):
        quant_point(x, 3)


def test_names_of_checkpointing_are_passed_over():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = jax.ad_checkpoint.checkpoint_name(nn.Conv(4, (3, 3), name="conv")(x), "saved")
            return nn.relu(y).mean((1, 2)) + y.mean((1, 2))

    model, x = from_linen(Named()), pictures()
    plan = make_plan(model, start(model, x), x)
    assert next(group.name for group in plan.groups) == "Named/conv:conv"
    assert {plan.input_site(group) for group in plan.groups[1:3]} == {"Named/conv:conv"}


def marked(y):
    return quant_point(y, "pre")


class Before(nn.Module):
    """A point between what computes and a rectifier, or a pool and a rectifier."""

    compute: Callable
    behind: Callable

    @nn.compact
    def __call__(self, x):
        y = self.behind(marked(self.compute(x)))
        return nn.Dense(3, name="head")(y.reshape(y.shape[0], -1))


FUSED = {
    "conv": (lambda x: nn.Conv(4, (3, 3))(x), nn.relu, "CONV_2D"),
    "relu6": (lambda x: 5 * nn.Conv(4, (3, 3))(x), nn.relu6, "CONV_2D"),
    "rectified before": (lambda x: nn.relu(5 * nn.Conv(4, (3, 3))(x)), nn.relu6, "CONV_2D"),
    "dense": (lambda x: nn.Dense(5)(x), nn.relu, "FULLY_CONNECTED"),
    "sum": (lambda x: nn.Conv(3, (3, 3))(x) + x, nn.relu, "ADD"),
    "scaling": (lambda x: (x[:, ::2] + x[:, 1::2]) * 2, nn.relu, "DEPTHWISE_CONV_2D"),
    "mean": (lambda x: x.mean((1, 2)), nn.relu, "MEAN"),
    "pool": (
        lambda x: nn.Conv(4, (3, 3))(x),
        lambda y: nn.relu(nn.max_pool(y, (2, 2), (2, 2))),
        "CONV_2D",
    ),
    "reshape": (
        lambda x: nn.Conv(4, (3, 3))(x),
        lambda y: nn.relu(y.reshape(y.shape[0], -1)),
        "CONV_2D",
    ),
    "seen before": (lambda x: nn.Conv(4, (3, 3))(x), lambda y: nn.relu(y) - 0.5 * y, "CONV_2D"),
}


@pytest.mark.parametrize("name", FUSED)
def test_a_rectifier_behind_a_point_has_its_file(name):
    """The grid reaches below 0, as the author asks; converters may fuse the rectifier: no integer changes."""
    compute, behind, operator = FUSED[name]
    plan, content = check(Before(compute, behind), most=2)
    first = next(group for group in plan.groups if "/pre:" in group.name)
    assert first.site in plan.observed
    assert any(isinstance(group, Rectifier) for group in plan.groups)
    assert operator in read(content).op_counts
