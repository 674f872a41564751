"""A model in half precision is quantized as the same model in float32, in every placement."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from quantize_checks import check, net, plan_of, refusal
from quantize_nets import pictures

from jaxmini.axis import AXIS
from jaxmini.compress.quantize import make_plan
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.program import trace
from jaxmini.model import from_linen
from jaxmini.models.vit import vit


class Half(nn.Module):
    """A residual block, a pool and a head whose mathematics is in ``dtype``."""

    dtype: object = jnp.bfloat16
    param_dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        with jax.numpy_dtype_promotion("standard"):  # linen's BatchNorm mixes both
            norm = functools.partial(nn.BatchNorm, use_running_average=not train, dtype=self.dtype)
            x = nn.relu(norm(name="norm")(nn.Conv(4, (3, 3), 2, name="stem", **types)(x)))
            y = jnp.clip(nn.Conv(4, (3, 3), name="conv", **types)(x), 0, 6)
            x = nn.avg_pool(x + y, (2, 2), (2, 2))
            return nn.Dense(3, name="head", **types)(x.mean((1, 2)))


def test_the_plan_is_that_of_float32():
    assert (
        str(plan_of(Half())) == str(plan_of(Half(jnp.float32))) == str(plan_of(Half(jnp.float16)))
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_numbers_are_those_of_float32(dtype):
    x, model = pictures(), from_linen(Half(dtype))
    variables = model.init(jax.random.key(0), x)
    plan = make_plan(model, variables, x)
    wide = from_linen(Half(jnp.float32)).apply(variables, x)[0]
    np.testing.assert_allclose(evaluate(plan, Float(plan, variables), x), wide, atol=1e-5)
    np.testing.assert_allclose(plan.program(variables, x), wide, atol=1e-5)
    assert model.apply(variables, x)[0].dtype == dtype


def test_parameters_in_half_precision_are_widened():
    x, model = pictures(), from_linen(Half(param_dtype=jnp.bfloat16))
    variables = model.init(jax.random.key(0), x)
    plan = make_plan(model, variables, x)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables)
    expected = from_linen(Half(jnp.float32)).apply(wide, x)[0]
    np.testing.assert_allclose(plan.program(variables, x), expected, atol=1e-5)


class Smooth(nn.Module):
    """Functions whose constants half precision rounds, and attention."""

    @nn.compact
    def __call__(self, x, *, train=False):
        half = {"dtype": jnp.bfloat16}
        x = nn.gelu(nn.Conv(8, (3, 3), 2, name="stem", **half)(x))
        x = nn.hard_swish(nn.Conv(8, (1, 1), name="conv", **half)(x))
        x = nn.MultiHeadDotProductAttention(2, name="attention", **half)(x.reshape(len(x), -1, 8))
        x = nn.leaky_relu(nn.Dense(8, name="dense", **half)(x))
        return nn.Dense(3, name="head", **half)(nn.silu(x).mean(1))


@pytest.mark.parametrize("module", [Half(), Smooth()], ids=["convolutions", "functions"])
def test_the_file_computes_it(module):
    check(module, tolerance=0.05)  # of bfloat16, which keeps 8 bits


def test_relu_keeps_its_derivative_at_zero():
    model = from_linen(nn.Sequential([nn.Dense(2, use_bias=False, dtype=jnp.bfloat16), nn.relu]))
    x = jnp.ones((1, 3))
    program = trace(model, model.init(jax.random.key(0), x), x)
    (relu,) = (op for op in program.ops if op.name == "relu")
    assert all(program.types[value].dtype == np.float32 for value in program.types)

    def total(values):
        return relu.bind(values)[0].sum()

    points = jnp.array([[0.0, 2.0]])
    np.testing.assert_array_equal(jax.grad(total)(points), [[0.0, 1.0]])  # max gives 1/2
    _, tangent = jax.jvp(relu.bind, (points,), (3 * jnp.ones_like(points),))
    np.testing.assert_array_equal(tangent[0], [[0.0, 3.0]])


def test_other_calls_with_derivatives_of_their_own_are_refused():
    @jax.custom_vjp
    def own(x):
        return x * 2

    own.defvjp(lambda x: (own(x), None), lambda _, g: (g,))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return own(nn.Dense(2, dtype=jnp.bfloat16)(x))

    assert "custom_vjp_call computes in half precision" in refusal(Net())


NETS = {
    "convolutions": lambda dtype: Half(dtype),
    "transformer": lambda dtype: vit(3, patch=4, width=8, layers=1, heads=2, dtype=dtype),
}


@pytest.fixture(scope="module", params=NETS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def half(kind):
    return net(NETS[kind]("bfloat16"), pictures(8))


def test_training_is_in_float32_and_is_that_of_the_wide_model(kind, half):
    _, twin, variables, x = half
    wide = net(NETS[kind]("float32"), x)[1]

    def loss(twin, params):
        logits, updates = twin.apply({**variables, "params": params}, x, train=True)
        return jnp.square(logits).sum(), (logits, updates)

    def train(twin):
        gradient = jax.value_and_grad(functools.partial(loss, twin), has_aux=True)
        return jax.jit(gradient)(variables["params"])

    ours, theirs = train(twin), train(wide)
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {np.dtype(np.float32)}
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), ours, theirs)


def test_vmap_over_examples_is_the_batch(half):
    _, twin, variables, x = half
    logits = jax.jit(twin.apply)(variables, x)[0]
    one_by_one = jax.vmap(lambda picture: twin.apply(variables, picture[None])[0][0])(x)
    np.testing.assert_allclose(one_by_one, logits, atol=1e-5)


def update(twin, gathered, variables, x):
    """One step of gradient descent; ``gathered`` makes a mean of what devices hold."""

    def loss(params):
        logits, updates = twin.apply({**variables, "params": params}, x, train=True)
        return gathered(jnp.square(logits).mean()), updates

    grads, updates = jax.grad(loss, has_aux=True)(variables["params"])
    params = optax.apply_updates(
        variables["params"], jax.tree.map(lambda g: -0.1 * g, gathered(grads))
    )
    return {**variables, **updates, "params": params}


def test_every_placement_trains_alike(half):
    _, twin, variables, x = half
    alone = jax.jit(functools.partial(update, twin, lambda tree: tree))
    mean = functools.partial(jax.lax.pmean, axis_name=AXIS)
    mapped = jax.pmap(
        functools.partial(update, twin, mean), axis_name=AXIS, in_axes=(None, 0), out_axes=None
    )
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    expected, pmapped = variables, variables
    for _ in range(2):
        expected, whole = alone(expected, x), alone(whole, split)
        pmapped = mapped(pmapped, x.reshape(8, 1, *x.shape[1:]))
    for other in (pmapped, whole):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), other, expected
        )
