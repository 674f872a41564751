"""Cost: exact counts of every net, and of programs with loops, branches and other layouts.

The counts of the nets are those of the published implementations in PyTorch (torchvision, timm,
RepDistiller), measured there by hooks on convolutions, dense layers and attention.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from jaxmini import models
from jaxmini.evaluate.cost import Cost, cost, count_batch_stats, count_macs, count_params
from jaxmini.model import Model, with_head

CIFAR = {  # depth: params and MACs with shortcut A, 10 classes; statistics with it
    8: (75_290, 12_239_488, 480),
    14: (172_506, 26_395_264, 928),
    20: (269_722, 40_551_040, 1_376),
    32: (464_154, 68_862_592, 2_272),
    44: (658_586, 97_174_144, 3_168),
    56: (853_018, 125_485_696, 4_064),
    110: (1_727_962, 252_887_680, 8_096),
}

NETS = [
    (models.resnet8x4(10), 32, 1_210_410, 2_752, 177_048_064),
    (models.resnet8x4(100), 32, 1_233_540, 2_752, 177_071_104),
    (models.resnet32x4(100), 32, 7_433_860, 9_920, 1_083_040_768),
    (models.resnet18(10, stem="cifar"), 32, 11_173_962, 9_600, 555_422_720),
    (models.resnet18(100, stem="cifar"), 32, 11_220_132, 9_600, 555_468_800),
    (models.resnet34(10, stem="cifar"), 32, 21_282_122, 17_024, 1_159_402_496),
    (models.resnet34(100, stem="cifar"), 32, 21_328_292, 17_024, 1_159_448_576),
    (models.resnet50(10, stem="cifar"), 32, 23_520_842, 53_120, 1_297_829_888),
    (models.resnet50(100, stem="cifar"), 32, 23_705_252, 53_120, 1_298_014_208),
    (models.resnet18(1000), 224, 11_689_512, 9_600, 1_814_073_344),
    (models.resnet34(1000), 224, 21_797_672, 17_024, 3_663_761_408),
    (models.resnet50(1000), 224, 25_557_032, 53_120, 4_089_184_256),
    (models.mobilenet_v2(1000, width=0.35), 224, 1_677_128, 14_080, 59_285_808),
    (models.mobilenet_v2(1000, width=0.5), 224, 1_968_680, 18_544, 97_131_840),
    (models.mobilenet_v2(1000, width=0.75), 224, 2_636_424, 26_640, 209_069_792),
    (models.mobilenet_v2(1000), 224, 3_504_872, 34_112, 300_774_272),
    (models.mobilenet_v2(1000, width=1.4), 224, 6_108_776, 47_936, 582_195_824),
    (models.mobilenet_v2(100), 32, 3_504_872 - 900 * 1281, 34_112, 6_240_128),
    (models.mobilenet_v4_conv_s(1000), 224, 3_774_024, 25_088, 186_005_568),
    (models.mobilenet_v4_conv_s(1000), 256, 3_774_024, 25_088, 242_178_048),
    (models.mobilenet_v4_conv_s(100), 32, 3_774_024 - 900 * 1281, 25_088, 5_101_632),
    (models.vit_tiny(1000), 224, 5_717_416, 0, 1_253_683_200),
    (models.vit_small(1000), 224, 22_050_664, 0, 4_598_882_304),
    (models.vit_small(1000, patch=32), 224, 22_878_952, 0, 1_142_909_952),
    (models.vit_base(1000), 224, 86_567_656, 0, 17_563_828_224),
    (models.vit_base(1000, patch=32), 224, 88_224_232, 0, 4_409_186_304),
    (models.vit_tiny(10, patch=4), 32, 5_362_762, 0, 365_107_584),
    (models.vit_tiny(100, patch=4), 32, 5_380_132, 0, 365_124_864),
]

DIGITS = {"stem_stride": 1, "strides": (2, 2)}
GREY = [  # The nets for pictures of one channel.
    (models.small_resnet(10), 28, 56_250, 2_211_872),
    (models.small_resnet(10, widths=(32, 64, 128), stem_width=32), 28, 308_074, 10_150_272),
    (models.small_resnet(10, widths=(32, 64), stem_width=16, **DIGITS), 8, 73_082, 468_608),
    (models.small_resnet(10, widths=(16, 32), stem_width=8, **DIGITS), 8, 18_626, 119_616),
]


@pytest.mark.parametrize("depth", CIFAR)
@pytest.mark.parametrize(("num_classes", "shortcut"), [(10, "A"), (10, "B"), (100, "B")])
def test_cost_of_the_cifar_family(depth, num_classes, shortcut):
    params, macs, batch_stats = CIFAR[depth]
    if shortcut == "B":  # Two projections, 16 to 32 and 32 to 64 channels, with BatchNorm.
        params, macs, batch_stats = params + 2_752, macs + 262_144, batch_stats + 192
    params, macs = params + 65 * (num_classes - 10), macs + 64 * (num_classes - 10)
    net = models.resnet_cifar(depth, num_classes, shortcut=shortcut)
    assert cost(net, (32, 32, 3)) == Cost(params, batch_stats, macs)


@pytest.mark.parametrize(("net", "size", "params", "batch_stats", "macs"), NETS)
def test_cost_of_a_published_net(net, size, params, batch_stats, macs):
    assert cost(net, (size, size, 3)) == Cost(params, batch_stats, macs)


@pytest.mark.parametrize(("net", "size", "params", "macs"), GREY)
def test_cost_of_a_small_net(net, size, params, macs):
    got = cost(net, (size, size, 1))
    assert (got.params, got.macs) == (params, macs)


@pytest.mark.parametrize("padding", ["same", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_and_dtype_do_not_change_the_cost(padding, dtype):
    net = models.small_resnet(10, padding=padding, dtype=dtype)
    assert cost(net, (28, 28, 1)) == Cost(56_250, 576, 2_211_872)


def test_a_head_adds_its_own_cost():
    body, head = models.small_resnet(), models.projection_head(32)
    alone, both = cost(body, (28, 28, 1)), cost(with_head(body, head), (28, 28, 1))
    assert both.params - alone.params == 48 * 48 + 2 * 48 + 48 * 32 + 32
    assert both.batch_stats - alone.batch_stats == 2 * 48
    assert both.macs - alone.macs == 48 * 48 + 48 * 32


def test_counts_of_real_variables_equal_those_of_shapes():
    net = models.small_resnet(10)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    assert count_params(variables) == 56_250
    assert count_batch_stats(variables) == 576
    assert count_batch_stats({"params": {}}) == 0
    assert count_macs(net, variables, (28, 28, 1)) == 2_211_872


def macs_of(function, *shape):
    model = Model(
        lambda key, inputs: {"params": {}},
        lambda variables, inputs, *, train=False, key=None: (function(inputs), {}),
    )
    return cost(model, shape).macs


KERNEL = jnp.ones((4, 4))


def test_a_scan_counts_every_turn_and_a_branch_the_dearest():
    def turns(x):
        return lax.scan(lambda x, _: (x @ KERNEL, None), x, length=7)[0]

    def branches(x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ KERNEL @ KERNEL, lambda x: x @ KERNEL, x)

    assert macs_of(turns, 4) == 7 * 16
    assert macs_of(branches, 4) == 2 * 16


def test_programs_within_programs_are_counted():
    inner = jax.checkpoint(jax.jit(lambda x: nn.silu(x @ KERNEL)))
    assert macs_of(lambda x: inner(inner(x)), 4) == 2 * 16


def test_a_loop_of_unknown_length_is_refused_only_if_it_multiplies():
    def loop(step):
        return lambda x: lax.while_loop(lambda x: x[0, 0] < 9, step, x)

    assert macs_of(loop(lambda x: x + 1.0), 4) == 0
    with pytest.raises(ValueError, match="runs until a condition holds"):
        macs_of(loop(lambda x: x @ KERNEL), 4)


def test_integer_inputs():
    net = nn.Sequential([nn.Embed(256, 8), nn.Dense(3)])
    assert cost(net, (16,), dtype=jnp.int32) == Cost(256 * 8 + 27, 0, 16 * 8 * 3)


@given(
    side=st.integers(5, 12),
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 3),
    kernel=st.integers(1, 5),
)
def test_a_convolution_costs_the_same_in_every_layout(side, groups, stride, kernel):
    def convolve(x, weights, layout):
        numbers = lax.conv_dimension_numbers(x.shape, weights.shape, layout)
        window = (stride, stride)
        return lax.conv_general_dilated(
            x, weights, window, "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    last = jnp.ones((kernel, kernel, 4 // groups, 12))
    first = jnp.ones((12, 4 // groups, kernel, kernel))
    out = -(-side // stride)
    expected = out * out * kernel * kernel * (4 // groups) * 12
    nhwc = macs_of(lambda x: convolve(x, last, ("NHWC", "HWIO", "NHWC")), side, side, 4)
    nchw = macs_of(lambda x: convolve(x, first, ("NCHW", "OIHW", "NCHW")), 4, side, side)
    assert (nhwc, nchw) == (expected, expected)
