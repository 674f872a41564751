"""The rule under every transformation of jax: what a net computes with it is what it computes without."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmini import cpu
from jaxmini.cpu import depthwise, turned, winograd
from tests.cpu.case import NETS, Case, chosen, convolutions
from tests.cpu.conftest import rule

Gradient = Callable[[Any, jax.Array], Any]


class Net(nn.Module):
    """Convolutions of each kind. Smooth, as a kink turns a rounding error into another gradient."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(features, kernel, stride=1, groups=1):
            return nn.Conv(
                features, (kernel,) * 2, stride, feature_group_count=groups, use_bias=False
            )

        def norm():
            return nn.BatchNorm(use_running_average=False)

        x = jnp.tanh(norm()(conv(8, 3)(x)))
        y = jnp.tanh(norm()(conv(8, 3, 2, groups=8)(x)))
        x = norm()(conv(8, 1)(y)) + conv(8, 1, 2)(x)
        return nn.Dense(3)(x.mean((1, 2)))


class Large(nn.Module):
    """The same for the formulations of large convolutions, whose thresholds ``plain`` takes down."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(features, kernel, stride=1, groups=1, padding="SAME"):
            return nn.Conv(
                features, (kernel,) * 2, stride, padding, feature_group_count=groups, use_bias=False
            )

        x = jnp.tanh(conv(64, 3, padding="VALID")(x))
        x = jnp.tanh(conv(64, 3)(x))
        x = jnp.tanh(conv(64, 3, groups=64)(x))
        x = jnp.tanh(conv(64, 3, 2, groups=64)(x))
        x = jnp.tanh(conv(32, 3, 2)(x))
        return nn.Dense(3)(conv(8, 2, 2)(x).mean((1, 2)))


BY_SIDE = {8: Net(), 16: Large()}
REACHED = {
    8: {"depthwise", "dense"},
    16: {"bordered", "dense", "depthwise", "turned", "winograd"},
}


def loss(params: Any, x: jax.Array) -> jax.Array:
    outputs, _ = BY_SIDE[x.shape[-2]].apply({"params": params}, x, mutable=["batch_stats"])
    return jnp.square(outputs).mean()


gradient = jax.grad(loss)


def of_gradient(params: Any, x: jax.Array) -> jax.Array:
    return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient(params, x)))


def forward_over_reverse(params: Any, x: jax.Array) -> Any:
    return jax.jvp(lambda params: gradient(params, x), (params,), (params,))[1]


def forward(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(lambda x: loss(params, x), (x,), (jnp.cos(x),))


def reverse(params: Any, x: jax.Array) -> Any:
    return jax.value_and_grad(loss, (0, 1))(params, x)


WHOLE = {
    "forward": forward,
    "reverse": reverse,
    "forward over reverse": forward_over_reverse,
    "reverse over reverse": jax.grad(of_gradient),
}


class Plain:
    """A net, eight batches, and what XLA's convolutions compute of them.

    Attributes:
        reached: what its convolutions must become, among others.
    """

    def __init__(self, side: int) -> None:
        rng, self.reached = np.random.default_rng(0), REACHED[side]
        self.batches = np.float32(rng.normal(size=(8, 2, side, side, 3)))
        init = jax.jit(BY_SIDE[side].init)
        self.params = init(jax.random.key(0), self.batches[0])["params"]
        self.models = jax.tree.map(lambda leaf: jnp.stack([leaf, jnp.cos(leaf)]), self.params)
        self.all = self.batches.reshape(-1, *self.batches.shape[2:])

        # Compiled ahead: these programs keep XLA's convolutions, whatever is installed later.
        compute = jax.jit(gradient).lower(self.params, self.batches[0]).compile()
        self.gradients = stacked([compute(self.params, batch) for batch in self.batches])
        models = [jax.tree.map(lambda leaf, i=i: leaf[i], self.models) for i in range(2)]
        self.of_models = stacked([compute(model, self.batches[0]) for model in models])
        self.of_all = jax.jit(gradient)(self.params, self.all)
        self.whole = {
            name: jax.jit(function)(self.params, self.batches[0])
            for name, function in WHOLE.items()
        }


def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@pytest.fixture(scope="module", params=[8, pytest.param(16, marks=pytest.mark.slow)])
def plain(request: pytest.FixtureRequest) -> Iterator[Plain]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == 16:
            patch.setattr(winograd, "WORTH", 0)
            patch.setattr(turned, "WORTH", 0)
            patch.setattr(depthwise, "SMALL", 0)
        yield Plain(request.param)


@pytest.fixture(scope="module")
def installed(plain: Plain) -> Iterator[list[cpu.Lowered]]:
    with rule() as lowered:
        yield lowered


@pytest.fixture(scope="module")
def paths(plain: Plain, installed: list[cpu.Lowered]) -> set[str]:
    """What the convolutions of the gradient become under jit alone."""
    jax.jit(gradient).lower(plain.params, plain.batches[0])
    return paths_of(installed)


@pytest.fixture
def lowered(installed: list[cpu.Lowered]) -> list[cpu.Lowered]:
    """What a test had lowered."""
    installed.clear()
    return installed


def agree(result: Any, expected: Any) -> None:
    leaves = zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)
    total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(expected)))
    for ours, theirs in leaves:
        assert ours.shape == theirs.shape
        assert np.linalg.norm(np.ravel(ours) - np.ravel(theirs)) <= 1e-5 * total


@pytest.mark.parametrize("name", WHOLE)
def test_differentiation(name: str, plain: Plain, lowered: list[cpu.Lowered]):
    result = jax.jit(WHOLE[name])(plain.params, plain.batches[0])
    agree(result, plain.whole[name])
    filters = {"turned"} if name == "forward" else set()  # which have no value to give
    assert plain.reached - filters <= kinds(lowered)


def kinds(lowered: list[cpu.Lowered]) -> set[str]:
    return {path.partition(".")[0] for path in paths_of(lowered)}


def paths_of(lowered: list[cpu.Lowered]) -> set[str]:
    return {convolution.path for convolution in lowered}


def in_eager(params: Any, batches: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], gradient(params, jnp.asarray(batches[0])))


def in_remat(params: Any, batches: jax.Array) -> Any:
    again = jax.jit(jax.grad(jax.checkpoint(loss)))
    return jax.tree.map(lambda leaf: leaf[None], again(params, batches[0]))


def in_scan(params: Any, batches: jax.Array) -> Any:
    def body(params, batch):
        return params, gradient(params, batch)

    return jax.jit(lambda params, batches: lax.scan(body, params, batches)[1])(params, batches)


def in_vmap(params: Any, batches: jax.Array) -> Any:
    return jax.jit(jax.vmap(gradient, (None, 0)))(params, batches)


def in_pmap(params: Any, batches: jax.Array) -> Any:
    return jax.pmap(gradient, in_axes=(None, 0))(params, batches)


def in_shard_map(params: Any, batches: jax.Array) -> Any:
    return _in_shard_map(params, batches, check_vma=True)


def in_unchecked_shard_map(params: Any, batches: jax.Array) -> Any:
    return _in_shard_map(params, batches, check_vma=False)


def _in_shard_map(params: Any, batches: jax.Array, check_vma: bool) -> Any:
    def per_device(params, batches):
        if check_vma:  # else the gradients of what does not vary come summed over devices
            params = jax.tree.map(lambda leaf: lax.pcast(leaf, "i", to="varying"), params)
        return jax.tree.map(lambda leaf: leaf[None], gradient(params, batches[0]))

    rows, whole = PartitionSpec("i"), PartitionSpec()
    return jax.jit(
        jax.shard_map(
            per_device, mesh=mesh(), in_specs=(whole, rows), out_specs=rows, check_vma=check_vma
        )
    )(params, batches)


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), ("i",))


TRANSFORMATIONS = (
    in_eager,
    in_remat,
    in_scan,
    in_vmap,
    in_pmap,
    in_shard_map,
    in_unchecked_shard_map,
)


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_transformations(
    transformation: Gradient, plain: Plain, paths: set[str], lowered: list[cpu.Lowered]
):
    result = transformation(plain.params, plain.batches)
    count = len(jax.tree.leaves(result)[0])
    agree(result, jax.tree.map(lambda leaf: leaf[:count], plain.gradients))
    # Its shapes are those under jit, but for the batch under vmap.
    assert paths_of(lowered) == paths or transformation is in_vmap
    grouped = {"turned"} if transformation is in_vmap else set()  # a filter gradient for each batch
    assert plain.reached - grouped <= kinds(lowered)


def test_vmap_over_models(plain: Plain, lowered: list[cpu.Lowered]):
    result = jax.jit(jax.vmap(gradient, (0, None)))(plain.models, plain.batches[0])
    agree(result, plain.of_models)
    assert "depthwise" in kinds(lowered)


def test_a_batch_that_lies_on_many_devices(plain: Plain, lowered: list[cpu.Lowered]):
    images = jax.device_put(plain.all, NamedSharding(mesh(), PartitionSpec("i")))
    agree(jax.jit(gradient)(plain.params, images), plain.of_all)
    assert plain.reached - {"turned", "winograd"} <= kinds(lowered)  # XLA cuts it, and no loop


@pytest.mark.parametrize("case", NETS.values(), ids=NETS)
def test_formulations_under_shard_map(case: Case, lowered: list[cpu.Lowered]):
    """What a loop carries must vary over the mesh as what is added to it does."""

    def directions(lhs, rhs):
        value, pull = jax.vjp(case, lhs, lax.pcast(rhs, "i", to="varying"))
        return [result[None] for result in (value, *pull(value))]

    lhs, rhs = case.shapes
    lhs = jax.ShapeDtypeStruct((8 * case.batch, *lhs.shape[1:]), lhs.dtype)
    rows, whole = PartitionSpec("i"), PartitionSpec()
    mapped = jax.shard_map(directions, mesh=mesh(), in_specs=(rows, whole), out_specs=rows)
    jax.jit(mapped).lower(lhs, rhs)
    assert {chosen(equation).path for equation in convolutions(case)} <= paths_of(lowered)
