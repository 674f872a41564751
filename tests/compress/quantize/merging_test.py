"""What a model computes twice is one group, and one operator of its file; what only looks alike stays two."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from quantize_checks import check, names, net, plan_of
from quantize_functions import alone, planned, program_of

from jaxmini.compress.quantize import make_plan, quant_point
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.merging import same_settings
from jaxmini.compress.quantize.plan import Weighted
from jaxmini.export.flatbuffer import read


class Net(nn.Module):
    """What ``function`` makes of pictures, in one module."""

    function: Callable

    @nn.compact
    def __call__(self, x):
        return self.function(x)


def twice(function: Callable) -> Callable:
    """A sum of two layers on ``function`` of the same, written twice."""

    def both(x):
        y = nn.Conv(4, (3, 3), name="stem")(x)
        return nn.DenseGeneral(3)(function(y)) - nn.DenseGeneral(3)(function(y))

    return both


def shared(make: Callable) -> Callable:
    """One layer applied twice to the same value."""

    def both(x):
        layer, y = make(), nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        return nn.DenseGeneral(3)(layer(y)) * nn.DenseGeneral(2 + 1)(layer(y))

    return both


def rows(layer: Callable) -> Callable:
    """The layer on pictures as sequences."""
    return lambda x: layer(x.reshape(x.shape[0], -1, x.shape[-1]))


def average(x):
    return nn.pooling.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4.0


ROW = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)


def pooled(x):
    return nn.relu(nn.max_pool(x, (2, 2), (2, 2)))


EQUAL = {
    "means": (twice(lambda y: y.mean((1, 2))), {"MEAN": 1}),
    "relus": (twice(lambda y: nn.relu(y)), {"CONV_2D": 1}),
    "sigmoids": (twice(nn.sigmoid), {"LOGISTIC": 1}),
    "sums": (twice(lambda y: y + nn.relu(y)), {"ADD": 1}),
    "numbers": (twice(lambda y: nn.relu(y * 0.5 + ROW)), {}),
    "average pools": (twice(average), {"AVERAGE_POOL_2D": 1}),
    "rectifiers past pools": (twice(pooled), {"MAX_POOL_2D": 1}),
    "dense": (shared(lambda: nn.Dense(5)), {"FULLY_CONNECTED": 3}),
    "normalisations": (shared(lambda: nn.LayerNorm()), {"RSQRT": 1}),
    "sequences": (shared(lambda: rows(nn.Conv(5, (3,)))), {"CONV_2D": 2}),
    "transposed": (shared(lambda: nn.ConvTranspose(5, (3, 3), (2, 2))), {"CONV_2D": 2}),
    "batch norms": (
        shared(lambda: nn.Sequential([nn.Conv(5, (1, 1)), nn.BatchNorm(True), nn.relu])),
        {"CONV_2D": 2},
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_the_file_has_one_operator_and_computes_the_simulation(name: str):
    function, counts = EQUAL[name]
    _, content = check(Net(function), most=3)
    found = read(content).op_counts
    assert counts.items() <= found.items(), found


def test_the_first_name_stays_and_the_others_keep_theirs():
    def function(x):
        y = nn.relu(nn.Conv(3, (3, 3))(x))
        return y.mean((1, 2)) - jnp.tanh(y.mean((1, 2))) * y.mean((1, 2), keepdims=True)[:, 0, 0]

    plan = plan_of(Net(function))
    assert [name for name in names(plan) if "mean" in name] == ["Net:mean", "Net:mean_2"]
    assert set(plan.sites) <= {"input", *names(plan)}


def test_a_rectifier_belongs_to_what_alone_it_follows_once_it_is_one():
    """Two equal ones see the convolution, so they are one of their own."""
    plan = plan_of(Net(twice(lambda y: nn.relu(y))))
    assert [name for name in names(plan) if "relu" in name] == ["Net:relu"]
    assert len(plan.groups) == 5


def test_one_kernel_on_two_values_is_two_groups():
    def function(x):
        layer = nn.Dense(3, name="layer")
        return layer(jnp.tanh(layer(x))) - layer(x)

    plan, content = check(Net(function))
    assert [name for name in names(plan) if "layer" in name] == [
        "Net/layer:dense",
        "Net/layer:dense_1",
    ]
    assert read(content).op_counts["FULLY_CONNECTED"] == 2


def test_one_kernel_with_other_factors_behind_is_two_groups():
    def function(x):
        layer = nn.Conv(3, (3, 3), use_bias=False, name="layer")
        norms = (nn.BatchNorm(use_running_average=True, name=name) for name in "ab")
        return jnp.tanh(next(norms)(layer(x))) - next(norms)(layer(x))

    plan, content = check(Net(function))
    assert sum(isinstance(group, Weighted) for group in plan.groups) == 2
    assert read(content).op_counts["CONV_2D"] == 2


def test_gradients_are_those_of_the_model():
    model, twin, variables, x = net(Net(shared(lambda: nn.Dense(5))))
    plan = make_plan(twin, variables, x)
    floats = {"params": variables["params"]}

    def of_plan(variables):
        return jnp.square(evaluate(plan, Float(plan, variables), x)).mean()

    def of_model(variables):
        return jnp.square(model.apply(variables, x)[0]).mean()

    expected, found = (jax.jit(jax.grad(loss))(floats) for loss in (of_model, of_plan))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected
    )

    def of_training(params):
        return jnp.square(twin.apply(variables | {"params": params}, x, train=True)[0]).mean()

    moved = jax.jit(jax.grad(of_training))(variables["params"])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(moved))


def test_a_marked_expression_written_twice_has_its_name_once():
    plan = plan_of(Net(twice(lambda y: quant_point(jnp.tanh(y), "here"))))
    assert [name for name in names(plan) if "here" in name] == ["Net/here:tanh"]


MATRICES = {"v": (4, 4), "w": (4, 4), "row": (1, 4)}


def count(function: Callable) -> int:
    """The groups that compute a difference of two expressions, without the difference."""
    return len(planned(function, (2, 4), **MATRICES).groups) - 1


@pytest.mark.parametrize(
    ("function", "groups"),
    [
        (lambda p, x: jnp.tanh(x @ p["w"]) - x @ p["w"], 2),
        (lambda p, x: x @ p["w"] - x @ p["v"], 2),
        (lambda p, x: x @ jnp.abs(p["w"]) - x @ jnp.abs(p["w"]), 1),
        (lambda p, x: x @ jnp.abs(p["w"]) - x @ jnp.abs(p["v"]), 2),
        (lambda p, x: x @ p["w"].T - x @ p["w"], 2),
        (lambda p, x: x @ (p["w"] * 2) - x @ (p["w"] * 2), 1),
        (lambda p, x: x @ (p["w"] * 2) - x @ (p["w"] * 3), 2),
        (lambda p, x: x * 2 - x * 2, 1),
        (lambda p, x: x * 2 - x * 3, 2),
        (lambda p, x: (x - p["row"]) - (p["row"] - x), 2),
        (lambda p, x: x * p["row"] - x * p["row"], 1),
        (lambda p, x: jnp.tanh(x) - jax.nn.sigmoid(x), 2),
        (lambda p, x: jax.nn.leaky_relu(x, 0.1) - jax.nn.leaky_relu(x, 0.1), 1),
        (lambda p, x: jax.nn.leaky_relu(x, 0.1) - jax.nn.leaky_relu(x, 0.2), 2),
        (lambda p, x: jax.nn.softmax(x) - jax.nn.softmax(x), 1),
        (lambda p, x: jax.nn.relu(x) - jax.nn.relu6(x), 2),
        (lambda p, x: x[:, ::-1] - x[:, [1, 0, 3, 2]], 2),
        (lambda p, x: x[:, [1, 0, 3, 2]] - x[:, [1, 0, 2, 3]], 2),
        (lambda p, x: x[:, [1, 0, 3, 2]] - x[:, [1, 0, 3, 2]], 1),
        (lambda p, x: jnp.where(KEPT, x, 0.5) - jnp.where(KEPT, x, 0.5), 1),
        (lambda p, x: jnp.where(KEPT, x, 0.5) - jnp.where(KEPT, 0.5, x), 2),
        (lambda p, x: jnp.where(KEPT, x, 0.5) - jnp.where(KEPT, x, 0.25), 2),
    ],
)
def test_groups_are_one_where_all_that_they_do_is(function: Callable, groups: int):
    assert count(function) == groups


KEPT = np.array([[True, False, False, True]])


def calls(*functions: Callable) -> list:
    """The calls that are kept whole."""
    return [op for function in functions for op in program_of(alone(function)).ops]


def own(factor: float) -> Callable:
    """A function with a derivative of its own, as jax.nn.relu is; its name is ``body``."""

    @jax.custom_jvp
    @jax.jit
    def body(x):
        return jnp.maximum(x * factor, 0)

    body.defjvps(lambda g, answer, x: g)
    return body


def test_calls_are_compared_by_their_bodies():
    first, again, other = calls(own(2.0), own(2.0), own(3.0))
    assert first.name == "body"
    assert same_settings(first, again)
    assert not same_settings(first, other)
    relu, relu_too, relu6 = calls(jax.nn.relu, jax.nn.relu, jax.nn.relu6)
    assert same_settings(relu, relu_too)
    assert not same_settings(relu, relu6)


def test_calls_without_a_name_and_what_may_answer_otherwise_are_never_the_same():
    @jax.custom_jvp
    def nameless(x):
        return jnp.sin(x) * 2

    nameless.defjvps(lambda g, answer, x: g)
    one, other = calls(nameless, nameless)
    assert not same_settings(one, other)

    def asked(x):
        return jax.experimental.io_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    first, second = calls(asked, asked)
    assert not same_settings(first, second)


def test_programs_are_compared_to_the_last_equation():
    def body(function: Callable) -> core.ClosedJaxpr:
        return jax.make_jaxpr(function)(jnp.zeros(3), jnp.ones(3))

    first = body(lambda a, b: (jnp.tanh(a) + b, b))
    assert same_settings(first, body(lambda a, b: (jnp.tanh(a) + b, b)))
    for other in (
        lambda a, b: (jnp.tanh(b) + b, b),
        lambda a, b: (jnp.tanh(a) + b, a),
        lambda a, b: (jnp.tanh(a) - b, b),
        lambda a, b: (jnp.tanh(a) + 1, b),
        lambda a, b: (jnp.tanh(a), b),
        lambda a, b: jnp.tanh(a) + b,
    ):
        assert not same_settings(first, body(other))
    arrays = [np.float32([0.0]), np.float32([-0.0]), np.float32([np.nan]), np.zeros(1)]
    assert [[same_settings(a, b.copy()) for a in arrays] for b in arrays] == np.eye(4).tolist()
