"""A scan over layers is a layer after another, each with its own grids and kernel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quantize_checks import check, names, net, plan_of, refusal
from quantize_nets import pictures, start

from jaxmini.compress.quantize import freeze, make_plan
from jaxmini.compress.quantize.program import trace
from jaxmini.model import from_linen


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        y = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), use_bias=False)(x))
        return x + nn.relu(y), None


class Scanned(nn.Module):
    length: int = 3
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), 2, name="stem")(x)
        layers = nn.scan(
            nn.remat(Layer) if self.remat else Layer,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=self.length,
        )
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


LAYERS = """\
plan [4, 12, 12, 3] -> [4, 3]: 7 groups, 8 grids
  Scanned/stem:conv             fold add                of input
  Scanned/layers_0/Conv_0:conv  fold sub mul add, relu  of Scanned/stem:conv
  Scanned/layers_0:add                                  of Scanned/stem:conv + Scanned/layers_0/Conv_0:conv
  Scanned/layers_1/Conv_0:conv  fold sub mul add, relu  of Scanned/layers_0:add
  Scanned/layers_1:add                                  of Scanned/layers_0:add + Scanned/layers_1/Conv_0:conv
  Scanned:mean                                          of Scanned/layers_1:add
  Scanned/head:dense            fold add                of Scanned:mean"""


@pytest.mark.parametrize("remat", [False, True])
def test_layers_are_named_by_their_number(remat):
    assert str(plan_of(Scanned(2, remat))) == LAYERS


def test_the_file_of_scanned_layers_computes_them():
    check(Scanned())


def test_each_layer_has_its_slice_of_the_parameters():
    _, twin, variables, inputs = net(Scanned())
    frozen = freeze(make_plan(twin, variables, inputs), variables)
    stacked = np.asarray(variables["params"]["layers"]["Conv_0"]["kernel"])
    norm, statistics = (variables[c]["layers"]["BatchNorm_0"] for c in ("params", "batch_stats"))
    # The first layer's factors are 0, and its scales those that a bias needs.
    assert not frozen.kernels["Scanned/layers_0/Conv_0:conv"].kernel.any()
    for number in (1, 2):
        scale, var = (np.asarray(a[number]) for a in (norm["scale"], statistics["var"]))
        factor = scale / np.sqrt(var + 1e-5)
        kernel = frozen.kernels[f"Scanned/layers_{number}/Conv_0:conv"]
        largest = np.maximum(np.abs(stacked[number] * factor).max((0, 1, 2)), 1e-6)
        np.testing.assert_allclose(kernel.scale, largest / 127, rtol=1e-5)


class Loop(nn.Module):
    """A fixed body without modules: ``steps`` times, stacking what it computes."""

    steps: int = 3
    reverse: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="first")(x.mean((1, 2)))
        table = self.param("table", nn.initializers.normal(1.0), (self.steps, 4))

        def body(carry, row):
            carry = nn.relu(carry + row[None])
            return carry, 2.0 * carry

        last, rows = lax.scan(body, x, table, reverse=self.reverse)
        rows = jnp.moveaxis(rows, 0, 1).reshape(x.shape[0], -1)
        return nn.Dense(3, name="head")(jnp.concatenate([last, rows], -1))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_loop_with_outputs_computes_the_model(reverse):
    plan, _ = check(Loop(reverse=reverse))
    assert "Loop/scan_0:add" in names(plan) or "Loop/scan_0:scale" in names(plan)


def test_nested_loops_are_numbered_twice():
    class Nested(nn.Module):
        @nn.compact
        def __call__(self, x):
            def inner(carry, _):
                with jax.named_scope("inner"):
                    return nn.relu(carry * 0.9), None

            def outer(carry, _):
                with jax.named_scope("outer"):
                    return lax.scan(inner, carry + 0.1, length=2)

            x, _ = lax.scan(outer, nn.Dense(4, name="first")(x), length=2)
            return x

    model, x = from_linen(Nested()), pictures()
    paths = {op.path for op in trace(model, start(model, x), x).ops}
    expected = {f"Nested/outer_{i}/inner_{j}" for i in range(2) for j in range(2)}
    assert expected <= paths


def test_fori_loop_of_fixed_length_is_unrolled():
    class Fixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="first")(x.mean((1, 2)))
            return lax.fori_loop(0, 3, lambda i, x: nn.relu(x + 0.5), x)

    assert len(names(plan_of(Fixed()))) >= 4


def test_a_long_scan_is_refused():
    message = refusal(Scanned(65))
    assert "a scan of 65 steps ('scan' in Scanned) is longer than the 64" in message
    assert "cut its length" in message


def test_a_while_loop_is_refused():
    class Until(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="first")(x)
            return lax.while_loop(lambda x: x.sum() > 1, lambda x: x * 0.5, x)

    message = refusal(Until())
    assert "'while' in the module Until" in message
    assert "give the loop a fixed number of steps" in message


def test_a_scan_of_variables_alone_stays_one_operation():
    class Normalised(nn.Module):
        """A kernel divided by its largest singular value, by power iteration."""

        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3))

            def body(v, _):
                v = kernel.T @ (kernel @ v)
                return v / jnp.linalg.norm(v), None

            v, _ = lax.scan(body, jnp.ones(3), length=100)
            return x.mean((1, 2)) @ (kernel / jnp.linalg.norm(kernel @ v))

    model, x = from_linen(Normalised()), pictures()
    program = trace(model, model.init(jax.random.key(0), x), x)
    assert [op.name for op in program.ops].count("scan") == 1
    check(Normalised())


class Wrapped(nn.Module):
    """Modules under ``nn.jit`` and ``nn.remat``; one kernel used by two operations."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.jit(nn.Conv)(4, (3, 3), 2, name="stem")(x))
        shared = nn.remat(nn.Conv)(4, (3, 3), name="shared")
        return nn.jit(nn.Dense)(3, name="head")(nn.relu(shared(nn.relu(shared(x)))).mean((1, 2)))


def test_a_shared_kernel_is_frozen_for_each_use():
    check(Wrapped())
    _, twin, variables, inputs = net(Wrapped())
    plan = make_plan(twin, variables, inputs)
    frozen = freeze(plan, variables)
    assert [name for name in names(plan) if "shared" in name] == [
        "Wrapped/shared:conv",
        "Wrapped/shared:conv_1",
    ]
    first, second = (frozen.kernels[f"Wrapped/shared:conv{end}"] for end in ("", "_1"))
    np.testing.assert_array_equal(first.kernel, second.kernel)
    np.testing.assert_allclose(first.float_bias, second.float_bias, atol=1e-4)
    assert first.input_scale != second.input_scale
    assert np.any(first.bias != second.bias)


class Mapped(nn.Module):
    own: bool = False

    @nn.compact
    def __call__(self, x):
        axis = {"variable_axes": {"params": 0 if self.own else None}}
        dense = nn.vmap(nn.Dense, split_rngs={"params": self.own}, in_axes=1, out_axes=1, **axis)
        return nn.relu(dense(4, name="rows")(x))


def test_a_vmapped_module_with_one_kernel_is_a_product():
    check(Mapped())


def test_a_vmapped_module_with_many_kernels_is_refused():
    message = refusal(Mapped(own=True))
    assert "it multiplies each slice with a kernel of its own" in message
    assert "share the kernel" in message
