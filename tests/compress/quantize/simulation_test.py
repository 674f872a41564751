"""Frozen integers are settled once, and their simulation is what the file's kernels compute, bit for bit."""

import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_nets import Bottlenecks, Branches, PreActivation, Residual, Shared, pictures, start

from jaxmini.compress.quantize import (
    Frozen,
    Grid,
    calibrate,
    freeze,
    int8,
    make_plan,
    mse,
    per_channel,
    per_tensor,
    quantize,
    rule,
    simulate,
)
from jaxmini.compress.quantize.evaluate import evaluate
from jaxmini.compress.quantize.frozen import Dequantized, operand_name
from jaxmini.compress.quantize.plan import INPUT
from jaxmini.model import Model, from_linen

NETS = {
    "residual": Residual(),
    "branches": Branches(),
    "pre_activation": PreActivation(),
    "shared": Shared(),
    "depthwise": Bottlenecks(),
}
USUAL = int8()
SCHEMES = {
    "per_tensor": int8(kernel=per_tensor()),
    "mse": int8(estimator=mse(), kernel=per_channel(mse=True)),
    "four_bits": int8(
        kernel=per_channel(bits=4, mse=True),
        rules=(rule("stem", kernel=per_channel()), rule("head", mse(), per_tensor(bits=2))),
    ),
}


@functools.cache
def quantized_net(name, scheme=USUAL):
    """model, plan of 16 pictures, variables, pictures, frozen tree."""
    model, x = from_linen(NETS[name]), pictures(16)
    variables, model = start(model, x[:1]), quantize(model, scheme)
    variables = calibrate(model, variables, [x])
    plan = make_plan(model, variables, x)
    return model, plan, variables, x, freeze(plan, variables)


def levels(values, grid):
    return np.round(np.asarray(values) / grid.scale).astype(int) + int(grid.zero_point)


@pytest.mark.parametrize("name", ["residual", "pre_activation"])
def test_freezing_twice_is_the_same(name):
    model, _, variables, x, frozen = quantized_net(name)
    one = make_plan(model, variables, x[:1])
    again = freeze(one, variables).arrays()
    assert again.keys() == frozen.arrays().keys()
    for key, array in frozen.arrays().items():
        assert array.dtype == again[key].dtype
        np.testing.assert_array_equal(array, again[key], err_msg=key)


def test_a_frozen_tree_survives_a_file():
    _, plan, _, x, frozen = quantized_net("pre_activation")
    file = io.BytesIO()
    np.savez(file, **frozen.arrays())
    file.seek(0)
    loaded = Frozen.from_arrays(np.load(file))
    assert loaded.constants.keys() == {"PreActivation:add_1#1"}
    np.testing.assert_array_equal(simulate(plan, loaded, x), simulate(plan, frozen, x))
    with pytest.raises(ValueError, match="'weights' is no part"):
        Frozen.from_arrays({"weights": np.zeros(3)})


def test_frozen_integers_are_in_their_ranges():
    for name in NETS:
        plan, frozen = quantized_net(name)[1], quantized_net(name)[4]
        assert set(frozen.grids) == set(plan.sites)
        for kernel in frozen.kernels.values():
            assert kernel.kernel.dtype == np.int8
            assert np.abs(kernel.kernel.astype(int)).max() == 127
            assert kernel.bias.dtype == np.int32
            assert kernel.scale.shape == kernel.bias.shape == kernel.kernel.shape[-1:]
            assert np.all(kernel.scale > 0)


def test_a_silent_channel_keeps_its_bias():
    _, _, variables, _, frozen = quantized_net("residual")
    kernel = frozen.kernels["Residual/stem:conv"]
    assert not np.any(kernel.kernel[..., 0])  # gamma is 0
    beta = variables["params"]["BatchNorm_0"]["bias"][0]
    step = kernel.scale[0] * kernel.input_scale
    np.testing.assert_allclose(kernel.float_bias[0], beta, atol=step)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_kernels_of_other_schemes_are_frozen_as_they_train(scheme):
    model, plan, variables, x, frozen = quantized_net("residual", SCHEMES[scheme])
    for group in plan.weighted:
        kernel, rounding = frozen.kernels[group.name], plan.kernel(group)
        assert np.abs(kernel.kernel.astype(int)).max() == rounding.limit
        assert kernel.scale.shape == kernel.bias.shape == kernel.kernel.shape[-1:]
        assert (np.unique(kernel.scale).size == 1) == isinstance(rounding, per_tensor)
    grid = frozen.grids[plan.output_site]
    integers = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(x)).astype(int)
    fake = levels(jax.jit(model.apply)(variables, x)[0], grid)
    assert np.abs(integers - fake).max() <= 4
    assert np.ptp(integers) > 100
    again = freeze(make_plan(model, variables, x[:1]), variables).arrays()
    for key, array in frozen.arrays().items():
        np.testing.assert_array_equal(array, again[key], err_msg=key)


@pytest.mark.parametrize("name", NETS)
def test_simulation_is_near_fake_quantization(name):
    model, plan, variables, x, frozen = quantized_net(name)
    grid = frozen.grids[plan.output_site]
    integers = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(x)).astype(int)
    fake = levels(jax.jit(model.apply)(variables, x)[0], grid)
    frozen_float = levels(jax.jit(lambda x: evaluate(plan, Dequantized(plan, frozen), x))(x), grid)
    most = 12 if name == "depthwise" else 4  # a flipped tie travels
    assert np.abs(integers - fake).max() <= most
    assert np.abs(integers - frozen_float).max() <= most
    assert np.ptp(integers) > 100


def test_integers_and_floats_are_one_input():
    _, plan, variables, x, _ = quantized_net("residual")
    model = quantize(from_linen(Residual()), input_grid=Grid(1 / 32, 5))
    variables = calibrate(model, variables, [x])
    plan = make_plan(model, variables, x)
    frozen = freeze(plan, variables)
    pixels = jnp.asarray(np.random.default_rng(0).integers(-128, 128, x.shape), jnp.int8)
    floats = (jnp.float32(pixels) - 5) / 32
    np.testing.assert_array_equal(simulate(plan, frozen, pixels), simulate(plan, frozen, floats))


class Marks(Dequantized):
    """The composites that a converter reads, as an exporter would put them."""

    def activation(self, site, values):
        grid = self.frozen.grids[site]
        return mark(values, grid.scale, grid.zero_point)

    def weight(self, group):
        kernel, bias = super().weight(group)
        axis = {"quantization_dimension": kernel.ndim - 1}
        return mark(kernel, self.frozen.kernels[group.name].scale, **axis), bias

    def constant(self, group, position):
        grid = self.frozen.constants[operand_name(group, position)].grid
        return mark(super().constant(group, position), grid.scale, grid.zero_point)

    def average(self, group, values):
        return values


def mark(values, scale, zero_point=0, **axis):
    attributes = {"scale": np.asarray(scale, np.float32).reshape(-1), "dtype": "i8", **axis}
    if not axis:
        attributes["zero_point"] = np.asarray(zero_point, np.int64).reshape(-1)
    marked = jax.lax.composite(lambda x, **_: x, name="quant.fake_quant")
    return marked(values, narrow_range=bool(axis), **attributes)


def converted(plan, frozen):
    """A .tflite of the plan, by litert-converter in strict mode."""
    ir = pytest.importorskip("litert_converter.mlir.ir")
    passes = pytest.importorskip("litert_converter.mlir.passmanager").PassManager
    api = pytest.importorskip("litert_converter.mlir._mlir_libs.converter_api_ext")
    shape = jax.ShapeDtypeStruct(plan.program.shape(plan.program.input), jnp.float32)
    function = jax.jit(lambda x: evaluate(plan, Marks(plan, frozen), x))
    exported = jax.export.export(function, platforms=["cpu"])(shape)
    context = ir.Context()
    api.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(exported.mlir_module_serialized)
        legalize = "vhlo-legalize-stablehlo,reconcile-unrealized-casts,strip-debuginfo"
        passes.parse(f"builtin.module({legalize})").run(module.operation)
        names = {"input_names": ["x"], "output_names": ["y"]}
        api.set_signature(module.operation, signature_name="serving_default", **names)
        config = api.ConvertToTFLConfig()
        config.strict_qdq_mode, config.enable_x64 = True, False
        api.run_convert_to_tfl_passes(module, passes(), config)
        return api.export_flatbuffer_to_bytes(module.operation)


@pytest.mark.parametrize("name", NETS)
def test_the_file_computes_the_simulation(name):
    check_file(*quantized_net(name))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_file_of_another_scheme_computes_its_simulation(scheme):
    check_file(*quantized_net("residual", SCHEMES[scheme]))


@pytest.mark.parametrize("count", [9, 49, 192, 768])
def test_means_at_ties_fall_as_in_the_file(count, compiled_as_users_do):
    """Twelve blocks of a ViT were two such numbers apart: each step of XNNPACK's is rounded to float32."""
    model = quantize(
        Model(init=lambda key, x: {}, apply=lambda variables, x, **_: (x.mean(-1), {}))
    )
    variables = calibrate(model, {}, [jnp.ones((1, 64, count))])
    plan = make_plan(model, variables, jnp.ones((1, 64, count)))
    frozen, random = freeze(plan, variables), np.random.default_rng(count)
    for ratio in (0.25, 0.375, *random.uniform(0.05, 1, 2)):
        source = Grid(random.uniform(0.01, 0.05), int(random.integers(-100, 100)))
        target = Grid(source.scale * ratio, int(random.integers(-100, 100)))
        grids = {INPUT: source, plan.output_site: target}
        x = (rows_at_ties(source, target, count, 64) - source.zero_point) * source.scale
        inputs = np.float32(x)[None]
        check_file(model, plan, variables, inputs, dataclasses.replace(frozen, grids=grids))


@pytest.fixture
def compiled_as_users_do():
    """XLA's optimizations make one rounding of a product and a sum, where they may."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def rows_at_ties(source, target, count, rows):
    """Integers [rows, count] of ``source`` whose means are nearest to half steps of ``target``."""
    totals = np.arange(-128 * count, 127 * count + 1)
    steps = (totals / count - source.zero_point) * source.scale / target.scale + target.zero_point
    distance = np.abs(steps - np.floor(steps) - 0.5)
    distance[(steps < -128) | (steps > 127)] = 1
    chosen = totals[np.argsort(distance)[:rows]]
    return chosen[:, None] // count + (np.arange(count) < chosen[:, None] % count)


def check_file(model, plan, variables, x, frozen):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    file = converted(make_plan(model, variables, x[:1]), frozen)
    runner = interpreter.Interpreter(model_content=file)
    runner.allocate_tensors()
    operations = {op["op_name"] for op in runner._get_ops_details()}
    assert not {name for name in operations if name.startswith("STABLEHLO")}
    (source,), (target,) = runner.get_input_details(), runner.get_output_details()
    logits = []
    for row in np.asarray(x):
        runner.set_tensor(source["index"], row[None])
        runner.invoke()
        logits.append(runner.get_tensor(target["index"])[0].copy())
    expected = jax.jit(functools.partial(simulate, plan, frozen))(x)
    np.testing.assert_array_equal(levels(logits, frozen.grids[plan.output_site]), expected)


def test_another_batch_than_the_plan_s_is_told():
    _, plan, _, x, frozen = quantized_net("residual")
    sizes = ", ".join(map(str, x.shape[1:]))
    for inputs in (x[:3], np.zeros((3, *x.shape[1:]), np.int8)):
        with pytest.raises(ValueError) as error:
            simulate(plan, frozen, inputs)
        assert str(error.value) == (
            f"simulate: the inputs are [3, {sizes}], the plan was made for [16, {sizes}]: make one for that "
            "shape, or give 16 examples at a time"
        )
