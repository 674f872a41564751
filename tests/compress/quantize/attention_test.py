"""Transformers and gated nets: planned as written down here, trained, simulated near fake quantization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_checks import trained
from quantize_nets import Attention, Functions, Gates, pictures, start

from jaxmini.compress.quantize import (
    Frozen,
    calibrate,
    float_island,
    freeze,
    int8,
    make_plan,
    mse,
    quantize,
    simulate,
)
from jaxmini.compress.quantize.evaluate import Float, evaluate
from jaxmini.compress.quantize.grid import Grid
from jaxmini.compress.quantize.islands import Island
from jaxmini.compress.quantize.masks import Mask
from jaxmini.model import from_linen
from jaxmini.models.vit import vit

NETS = {
    "attention": Attention(),
    "gates": Gates(),
    "functions": Functions(),
    "vit": vit(5, patch=4, width=16, layers=1, heads=2),
}

GATES = """\
  Gates/stem:conv         fold add sub mul add  of input
  Gates:hard_swish                              of Gates/stem:conv
  Gates/Conv_0:conv       fold add sub mul add  of Gates:hard_swish
  Gates:hard_swish_1                            of Gates/Conv_0:conv
  Gates/depthwise:conv    fold add sub mul add  of Gates:hard_swish_1
  Gates:hard_swish_2                            of Gates/depthwise:conv
  Gates:mean                                    of Gates:hard_swish_2
  Gates/squeeze:conv      fold add, relu        of Gates:mean
  Gates/excite:conv       fold add add, relu6   of Gates/squeeze:conv
  Gates:scale             fold div              of Gates/excite:conv
  Gates:mul                                     of Gates:hard_swish_2 + Gates:scale
"""


@functools.cache
def quantized_net(name):
    """model, plan of 4 pictures, variables, pictures, frozen tree."""
    model, x = from_linen(NETS[name]), pictures(4)
    variables, model = start(model, x[:1]), quantize(model)
    variables = calibrate(model, variables, [x])
    plan = make_plan(model, variables, x)
    return model, plan, variables, x, freeze(plan, variables)


def labels(plan):
    return [group.name.rpartition(":")[2] for group in plan.groups]


def test_a_gated_block_is_planned_as_it_is_drawn():
    assert GATES in str(quantized_net("gates")[1])


def test_an_attention_is_planned_as_it_is_drawn():
    plan = quantized_net("attention")[1]
    text = str(plan)
    assert "fold add div" in text  # 1/sqrt(size) goes into linen's query kernel
    assert text.count("hides ") == 2
    assert text.splitlines()[-1] == (
        "  in float: Attention/norm0:norm, Attention/norm1:norm, Attention/norm2:norm"
    )
    functions = [label for label in labels(plan) if not label.startswith(("reshape", "split"))]
    assert functions[:12] == [
        *("conv", "concat", "norm", "dense", "dense", "dense"),
        *("matmul", "mask", "softmax", "matmul", "transpose", "dense"),
    ]


def test_heads_have_a_scale_for_each_of_their_channels():
    frozen = quantized_net("attention")[4]
    assert frozen.kernels["Attention/attention/query:dense"].scale.shape == (12,)
    assert frozen.kernels["Attention/attention/out:dense"].kernel.shape == (12, 12)


def test_kernels_know_some_grids():
    _, plan, _, _, frozen = quantized_net("functions")
    given = {site.rpartition(":")[2]: grid for site, grid in plan.fixed.items()}
    assert given == {
        "softmax": Grid(1 / 256, -128),
        "log_softmax": Grid(1 / 16, 127),
        "sigmoid": Grid(1 / 256, -128),
        "tanh": Grid(1 / 128, 0),
    }
    assert {"gelu", "hard_swish", "leaky_relu", "leaky_relu_1"} <= set(labels(plan))
    assert all(frozen.grids[site] == grid for site, grid in plan.fixed.items())


@pytest.mark.parametrize("name", ["attention", "functions"])
def test_without_rounding_it_is_the_model(name):
    _, plan, variables, x, _ = quantized_net(name)
    floats = {key: tree for key, tree in variables.items() if key != "quant"}
    expected = jax.jit(from_linen(NETS[name]).apply)(floats, x)[0]
    actual = jax.jit(lambda x: evaluate(plan, Float(plan, floats), x))(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_simulation_is_near_fake_quantization(name):
    model, plan, variables, x, frozen = quantized_net(name)
    grid = frozen.grids[plan.output_site]
    integers = np.asarray(jax.jit(functools.partial(simulate, plan, frozen))(x)).astype(int)
    fake = np.asarray(jax.jit(model.apply)(variables, x)[0])
    fake = np.round(fake / grid.scale).astype(int) + int(grid.zero_point)
    assert np.abs(integers - fake).max() <= 6  # a flipped tie travels
    assert np.ptp(integers) > 100


def test_frozen_numbers_do_not_depend_on_the_batch():
    model, _, variables, x, frozen = quantized_net("vit")
    one = freeze(make_plan(model, variables, x[:1]), variables).arrays()
    many = Frozen.from_arrays(frozen.arrays()).arrays()
    assert one.keys() == many.keys()
    for key, array in many.items():
        np.testing.assert_array_equal(array, one[key], err_msg=key)
    assert "floats/ViT/norm:norm#0/values" in many


@pytest.mark.parametrize("name", ["vit", "gates"])
def test_it_trains(name):
    model, _, variables, x, _ = quantized_net(name)
    trained(model, variables, x, jnp.arange(4))


def test_hidden_scores_get_no_attention():
    _, plan, variables, _, frozen = quantized_net("attention")
    masks = [group for group in plan.groups if isinstance(group, Mask)]
    assert [mask.kept.shape for mask in masks] == [(1, 1, 10, 10), (1, 10, 10)]
    for mask in masks:
        grid = frozen.grids[mask.site]
        source = frozen.grids[plan.input_site(mask)]
        highest = (127 - int(source.zero_point)) * source.scale
        added = frozen.constants[f"{mask.name}#1"].float_values.min()
        assert highest + added <= (-128 - int(grid.zero_point)) * grid.scale
        # Nine hidden scores are together less than half a step beside the least score that is kept.
        known = variables["quant"][mask.site]
        kept = variables["quant"][plan.input_site(mask)]
        assert 9 * np.exp(known["low"] - kept["low"]) <= 1 / 500


def test_a_clipping_estimator_leaves_masks_alone():
    model, x = from_linen(NETS["attention"]), pictures(2)
    plan = make_plan(quantize(model, int8(estimator=mse())), start(model, x[:1]), x)
    known = {str(plan.estimator(group.site)) for group in plan.groups if isinstance(group, Mask)}
    assert known == {"min_max()"}


def test_a_declared_module_stays_in_float():
    model, x = from_linen(NETS["vit"]), pictures(2)
    variables = start(model, x[:1])
    scheme = int8(rules=(float_island("block0/attention"),))
    quantized = quantize(model, scheme)
    plan = make_plan(quantized, variables, x)
    islands = {group.name: group for group in plan.groups if isinstance(group, Island)}
    assert list(islands) == [
        "ViT/block0/norm0:norm",
        "ViT/block0/attention:island",
        "ViT/block0/norm1:norm",
        "ViT/norm:norm",
    ]
    assert [island.declared for island in islands.values()] == [False, True, False, False]
    assert len(islands["ViT/block0/attention:island"].held) == 8
    variables = calibrate(quantized, {**variables, "quant": {}}, [x])
    frozen = freeze(plan, variables)
    grid = frozen.grids[plan.output_site]
    fake = jax.jit(quantized.apply)(variables, x)[0]
    integers = jax.jit(functools.partial(simulate, plan, frozen))(x)
    near = (np.float32(integers) - grid.zero_point) * grid.scale
    np.testing.assert_allclose(near, fake, atol=4 * grid.scale)
