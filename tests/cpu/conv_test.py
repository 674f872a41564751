"""Conv: where the rule takes hold, where it does not, and what it says."""

import contextlib
import functools
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import mlir
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmini import cpu
from jaxmini.cpu import conv
from jaxmini.export import flatbuffer, jax2tf, litert, lowering
from tests.cpu.conftest import rule

ROOT = Path(__file__).parents[2]
WEIGHTS = tuple(
    np.float32(np.random.default_rng(0).normal(size=shape))
    for shape in ((3, 3, 3, 8), (3, 3, 1, 8), (1, 1, 8, 4), (2, 2, 4, 4))
)
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), np.dtype(np.float32))


def convolve(
    x: jax.Array, w: jax.Array, stride: int = 1, groups: int = 1, precision: Any = None
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision,
    )


def logits(image: jax.Array) -> jax.Array:
    """Of a net of a stem, a depthwise convolution, a 1x1 and patches."""
    stem, depthwise, pointwise, patches = WEIGHTS
    x = jnp.tanh(convolve(image, stem))
    x = jnp.tanh(convolve(x, depthwise, 2, 8))
    x = convolve(x, pointwise)
    return convolve(x, patches, 2).mean((1, 2))


def gradient(image: jax.Array) -> jax.Array:
    return jax.grad(lambda image: logits(image).sum())(image)


def without_and_with(action: Callable[[], Any]) -> tuple[Any, Any, list[cpu.Lowered]]:
    """What an action gives without the rule and with it, and what the rule was told of.

    Called from one line, as programs hold the lines they were called from.
    """
    results = []
    for place in (contextlib.nullcontext(), rule()):
        with place as lowered:
            results.append(action())
    return *results, lowered


def entry() -> object:
    return mlir._platform_specific_lowerings["cpu"][lax.conv_general_dilated_p]


def python(program: str) -> str:
    """What a process of its own prints; it sees no compile cache, and its warnings are errors."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning:jaxmini", "-c", program],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_pinned_jax_keeps_its_rules_where_they_are_looked_for():
    """If this fails after an upgrade: find jax's table of a platform's rules, and name the version."""
    assert jax.__version__ == conv.TESTED
    with rule():
        assert entry().rule.__module__ == "jaxmini.cpu.conv"


def test_a_net_is_lowered_without_convolutions_that_have_a_formulation():
    plain, ours, lowered = without_and_with(lambda: jax.jit(gradient).lower(IMAGE).as_text())
    left = sum(convolution.path == "xla" for convolution in lowered)
    assert left < len(lowered) == plain.count("stablehlo.convolution")
    assert ours.count("stablehlo.convolution") < len(lowered)


def test_uninstall_puts_jax_s_own_rule_back():
    before = entry()
    with rule():
        assert entry() != before
    assert entry() == before


def test_installing_again_changes_the_report_alone():
    before, later = entry(), []
    with rule() as lowered:
        jax.clear_caches()
        assert cpu.install(later.append)
        jax.jit(logits).lower(IMAGE)
    assert len(later) == 4
    assert lowered == []
    assert entry() == before


def test_uninstalling_what_is_not_installed_does_nothing():
    before = entry()
    cpu.uninstall()
    assert entry() is before


@pytest.mark.parametrize("table", [None, {}, {"cpu": {}}], ids=["none", "empty", "other rules"])
def test_a_jax_that_keeps_its_rules_elsewhere_is_left_alone(
    table: dict | None, monkeypatch: pytest.MonkeyPatch
):
    before = entry()
    with monkeypatch.context() as patched, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if table is None:
            patched.delattr(mlir, "_platform_specific_lowerings")
        else:
            patched.setattr(mlir, "_platform_specific_lowerings", table)
        assert cpu.install() is False
    (warning,) = told
    assert warning.category is RuntimeWarning
    assert warning.filename == __file__
    assert jax.__version__ in str(warning.message)
    assert entry() is before


def test_the_report_has_each_distinct_convolution():
    def block(x, w, v):
        with jax.named_scope("block"):
            return convolve(convolve(convolve(x, w, groups=8), w, groups=8), v)

    shapes = [(2, 8, 8, 8), (3, 3, 1, 8), (1, 1, 8, 4)]
    with rule() as lowered:
        jax.jit(block).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    told = {convolution.path: convolution for convolution in lowered}
    assert sorted(told) == ["dense.pointwise", "depthwise.multiply_add"]
    assert len(lowered) == 2
    pointwise = told["dense.pointwise"]
    assert pointwise.shapes == "float32[2,8,8,8] * float32[1,1,8,4] -> float32[2,8,8,4]"
    assert all(convolution.why for convolution in lowered)
    for part in (pointwise.path, pointwise.why, pointwise.shapes):
        assert part in str(pointwise)


@pytest.mark.parametrize(
    ("shape", "kernel", "why"),
    [
        ((1, 4, 4, 4, 2), (1, 1, 1, 2, 2), "3 axes of space"),
        ((0, 4, 4, 2), (1, 1, 2, 2), "an empty array"),
        ((1, 4, 4, 4), (3, 3, 2, 4), "groups of several"),
        ((1, 16, 16, 2), (9, 9, 1, 2), "81 taps"),
    ],
)
def test_what_is_left_to_xla_is_told_with_its_reason(shape: tuple, kernel: tuple, why: str):
    layout = ("NDHWC", "DHWIO", "NDHWC") if len(shape) == 5 else ("NHWC", "HWIO", "NHWC")

    def function(x, w):
        strides = (1,) * (len(shape) - 2)
        groups = shape[-1] // kernel[-2]
        return lax.conv_general_dilated(
            x, w, strides, "SAME", dimension_numbers=layout, feature_group_count=groups
        )

    plain, ours, lowered = without_and_with(
        lambda: jax.jit(function)(jnp.ones(shape), jnp.ones(kernel))
    )
    np.testing.assert_array_equal(ours, plain)
    assert [convolution.path for convolution in lowered] == ["xla"]
    assert why in lowered[0].why


def test_integers_are_left_to_jax():
    x, w = jnp.ones((1, 4, 4, 2), jnp.int32), jnp.ones((1, 1, 2, 2), jnp.int32)
    plain, ours, lowered = without_and_with(lambda: jax.jit(convolve).lower(x, w).as_text())
    assert ours == plain
    assert [convolution.path for convolution in lowered] == ["xla"]


@pytest.mark.parametrize(
    ("precision", "path"), [(None, "winograd.forward"), (lax.Precision.HIGHEST, "xla")]
)
def test_more_precision_where_it_is_asked_for_means_plain_sums(precision, path: str):
    """Integers in floats, whose sums are exact: those of Winograd's halves would need more bits."""
    shapes = [(64, 32, 32, 64), (3, 3, 64, 64)]
    operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with rule() as lowered:
        jax.jit(functools.partial(convolve, precision=precision)).lower(*operands)
    assert [convolution.path for convolution in lowered] == [path]


def test_a_loop_over_the_batch_stays_out_of_programs_that_xla_cuts():
    """Every turn of it would gather the batch from all devices."""
    mesh = Mesh(np.array(jax.devices()), ("i",))
    shardings = [NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("i",), ())]
    operands = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for shape, sharding in zip(((64, 32, 32, 64), (3, 3, 64, 64)), shardings, strict=True)
    ]
    with rule() as lowered:
        jax.jit(convolve).lower(*operands)
    (convolution,) = lowered
    assert (convolution.path, "cut over devices" in convolution.why) == ("xla", True)


def test_complex_numbers_stay_three_convolutions_of_real_ones():
    """jax's own rule for this platform, which ours stands in place of; the three are ours again."""
    rng = np.random.default_rng(0)
    x, w = (
        np.complex64(rng.normal(size=shape) + 1j * rng.normal(size=shape))
        for shape in ((1, 4, 4, 2), (3, 3, 1, 2))
    )
    plain, ours, lowered = without_and_with(
        lambda: jax.jit(lambda x, w: convolve(x, w, groups=2))(x, w)
    )
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)
    assert {c.path for c in lowered} == {"xla", "depthwise.multiply_add_pixels"}


def test_compiled_programs_with_convolutions_are_told_of():
    """In a process of its own, as programs of other tests would be told of too."""
    python("""
import warnings
import jax, jax.numpy as jnp
from jax import lax
from jax._src import xla_bridge
from jaxmini import cpu

def told(action):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        action()
    return [str(warning.message) for warning in told]

assert told(cpu.install) == []
assert not xla_bridge.backends_are_initialized()
assert told(cpu.uninstall) == []

x, w = jnp.ones((1, 2, 4, 4)), jnp.ones((2, 1, 3, 3))
jax.jit(jnp.dot)(x[0, 0], x[0, 1])
assert told(cpu.install) == []
assert told(cpu.uninstall) == []

convolve = jax.jit(lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=2))
convolve(x, w)
(message,) = told(cpu.install)
assert "jaxmini.cpu.install: 1 program" in message and "jax.clear_caches()" in message, message

jax.clear_caches()
assert told(cpu.install) == []
convolve(x, w)
(message,) = told(cpu.uninstall)
assert "jaxmini.cpu.uninstall: 1 program" in message and "jax.clear_caches()" in message, message
""")


def test_importing_jaxmini_does_not_install_it():
    """Every module but those that are programs of other processes."""
    printed = python("""
import importlib, pkgutil
import jaxmini
from jax import lax
from jax.interpreters import mlir

entry = lambda: mlir._platform_specific_lowerings["cpu"][lax.conv_general_dilated_p]
before = entry()
for module in pkgutil.walk_packages(jaxmini.__path__, "jaxmini."):
    if module.name.split(".")[-1] not in ("convert_jax2tf", "convert_litert", "run_saved_model"):
        importlib.import_module(module.name)
assert entry() is before
print(before.rule.__module__)
""")
    assert not printed.startswith("jaxmini")


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("function", [logits, gradient])
def test_programs_for_other_platforms_do_not_change(function: Callable, platform: str):
    plain, ours, lowered = without_and_with(
        lambda: jax.jit(function).trace(IMAGE).lower(lowering_platforms=(platform,)).as_text()
    )
    assert ours == plain
    assert lowered == []


@pytest.mark.parametrize("platforms", [("cpu",), ("tpu",), ("cpu", "cuda")])
@pytest.mark.parametrize("function", [logits, gradient])
def test_programs_to_be_exported_do_not_change(function: Callable, platforms: tuple[str, ...]):
    plain, ours, lowered = without_and_with(
        lambda: jax.export.export(jax.jit(function), platforms=platforms)(IMAGE).mlir_module()
    )
    assert ours == plain
    assert "stablehlo.convolution" in plain
    assert lowered == []


def test_what_file_converters_are_given_does_not_change():
    plain, ours, _ = without_and_with(lambda: lowering.portable(lowering.lower(logits, IMAGE)))
    assert ours == plain


@pytest.mark.parametrize(
    "backend",
    [pytest.param(jax2tf, marks=pytest.mark.slow, id="jax2tf"), pytest.param(litert, id="litert")],
)
def test_tflite_files_have_the_same_operators(backend: types.ModuleType):
    plain, ours, _ = without_and_with(
        lambda: [op.name for op in flatbuffer.read(backend.convert(logits, IMAGE)).ops]
    )
    assert ours == plain
    assert plain.count("DEPTHWISE_CONV_2D") == 1
    assert plain.count("CONV_2D") == 3
