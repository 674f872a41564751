"""Where the axis of the examples goes, through every operation that moves axes."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from quantize_functions import alone, program_of

from jaxmini.compress.quantize.examples import example_axes

SHAPE = (3, 4, 2, 5)


def axis_of(function, shape=SHAPE, **params):
    program = program_of(function, shape, **params)
    return example_axes(program)[program.output]


def swapped(x):
    return x.transpose(2, 1, 0, 3)


FOLLOWED = {
    "left_alone": (jnp.tanh, 0),
    "transposed": (swapped, 2),
    "there_and_back": (lambda x: swapped(swapped(x)) + x, 0),
    "reshaped": (lambda x: x.reshape(1, 1, 3, 8, 5), 2),
    "reshaped_behind": (lambda x: swapped(x).reshape(8, 1, 3, 5), 2),
    "merged": (lambda x: x.reshape(12, 2, 5), None),
    "squeezed": (lambda x: swapped(x)[:1].squeeze(0), 1),
    "reduced": (lambda x: swapped(x).sum((0, 3)), 1),
    "reduced_away": (lambda x: x.sum(0), None),
    "broadcast": (lambda x: jnp.broadcast_to(x[None], (7, *SHAPE)), 1),
    "cut": (lambda x: x[:2], None),
    "common": (lambda x: lax.dot_general(x, x, (((3,), (3,)), ((2, 0), (2, 0)))), 1),
    "of_the_first": (lambda x: jnp.tensordot(x, jnp.ones((4, 6)), ((1,), (0,))), 0),
    "of_the_second": (lambda x: jnp.tensordot(jnp.ones((6, 4)), x, ((1,), (1,))), 1),
    "summed": (lambda x: jnp.tensordot(x, jnp.ones((3, 6)), ((0,), (0,))), None),
    "at_odds": (lambda x: x[:, :3] @ x[:, :3].transpose(1, 0, 3, 2), None),
    "mapped": (lambda x: jax.vmap(jnp.tanh, 1, 2)(x), 0),
    "stacked": (lambda x: jnp.stack([x, x]), None),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_axis_is_followed_or_lost(name):
    function, expected = FOLLOWED[name]
    assert axis_of(alone(function)) == expected


def test_a_convolution_says_where_it_is():
    def convolved(layout, moved):
        def function(params, x):
            return lax.conv_general_dilated(
                x.transpose(moved), params["w"], (1, 1), "SAME", dimension_numbers=layout
            )

        return axis_of(function, (3, 4, 4, 2), w=(2, 2, 2, 2))

    assert convolved(("NHWC", "HWIO", "NHWC"), (0, 1, 2, 3)) == 0
    assert convolved(("HWNC", "HWIO", "HNWC"), (1, 2, 0, 3)) == 1


def test_what_does_not_depend_on_the_input_has_none():
    program = program_of(lambda params, x: x + jnp.tanh(params["w"]), (3, 4), w=(3, 4))
    axes = example_axes(program)
    (tanh,) = (op for op in program.ops if op.name == "tanh")
    assert tanh.outputs[0] not in axes
    assert axes[program.output] == 0
