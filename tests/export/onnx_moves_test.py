"""ONNX moves: each form computes what its primitive does, of a fixed batch and of an open one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmini.compress.quantize.plan import Move
from jaxmini.compress.quantize.program import run
from jaxmini.export.onnx_layout import Tensor, Writer, as_in_jax, channels_first
from jaxmini.export.onnx_moves import MOVES, _sides, move
from tests.export.onnx_graphs import Plain, answers, planned

SHAPE = (2, 4, 5, 3)
X = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def window(x):
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, 2, 3, 1),
        window_strides=(1, 1, 2, 1),
        padding=((0, 0), (1, 0), (1, 1), (0, 0)),
        window_dilation=(1, 2, 1, 1),
    )


FORMS = {
    "broadcast_in_dim": lambda x: lax.broadcast_in_dim(x, (2, 4, 5, 6, 3), (0, 1, 2, 4)),
    "broadcast_in_dim of ones": lambda x: lax.broadcast_in_dim(
        x[:, :1], (2, 7, 5, 3), (0, 1, 2, 3)
    ),
    "concatenate": lambda x: jnp.concatenate([x[:, :2], x], 1),
    "dynamic_slice": lambda x: lax.dynamic_slice_in_dim(x, 1, 2, 1),
    "gather": lambda x: x[:, np.array([2, 0, 2])],
    "max": lambda x: jnp.maximum(x, x[:, ::-1]),
    "min": lambda x: jnp.minimum(x, x[:, ::-1]),
    "pad": lambda x: lax.pad(x, 0.0, ((0, 0, 0), (1, 2, 0), (-1, 0, 0), (0, 1, 0))),
    "reduce_max": lambda x: x.max((1, 3)),
    "reduce_min": lambda x: x.min((1, 3)),
    "reduce_window_max": window,
    "reshape": lambda x: x.reshape(2, 10, 6),
    "rev": lambda x: lax.rev(x, (1, 3)),
    "slice": lambda x: x[:, 1:4:2, :, 1:],
    "split": lambda x: jnp.split(x, (2,), 2)[1],
    "squeeze": lambda x: lax.squeeze(x[:, :1, :, 2:], (1, 3)),
    "stack": lambda x: jnp.stack([x, x[:, ::-1]], 2),
    "stop_gradient": lax.stop_gradient,
    "tile": lambda x: jnp.tile(x, (1, 2, 1, 3)),
    "transpose": lambda x: x.transpose(0, 3, 1, 2),
}


def test_every_form_is_looked_at():
    """``copy`` is what JAX writes where nothing moves."""
    assert {name.split()[0] for name in FORMS} | {"copy"} == set(MOVES)


def translated(function, *, open_batch: bool, order=None):
    """What the moves of a function give of X, whose axes lie in another order in the file."""
    plan = planned(lambda p, x: function(x), SHAPE)
    made = Writer(plan, Plain(), open_batch=open_batch)
    source = Tensor("image", as_in_jax(4), "input")
    values = {plan.program.input: source if order is None else made.arranged(source, order)}
    for group in plan.groups:
        assert isinstance(group, Move), group
        results = move(made, group, [values.get(value) for value in group.inputs])
        values.update(zip(group.outputs, results, strict=True))
    shape = plan.program.shape(plan.output)
    x = np.concatenate([X, X[::-1], X[:1]]) if open_batch else X
    found = answers(made, values[plan.output], x, shape)
    return found, x, plan


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_a_form_moves_as_its_primitive_does(name: str, open_batch: bool):
    found, x, plan = translated(FORMS[name], open_batch=open_batch, order=channels_first(4))
    assert name.split()[0] in {op.name for op in plan.program.ops}
    for start in range(0, len(x) - 1, 2):  # the plan's own batch is of two
        values = {plan.program.input: jnp.asarray(x[start : start + 2])}
        run(plan.program.ops, values)
        np.testing.assert_array_equal(found[start : start + 2], values[plan.program.output])


REFUSED = {
    "a batch that is reversed": (lambda x: lax.rev(x, (0,)), "it reverses the batch"),
    "a part of the batch": (lambda x: x[:1], "it takes a part of the batch"),
    "a batch that is moved": (lambda x: x.transpose(1, 0, 2, 3), "it moves the batch"),
    "a batch that is padded": (
        lambda x: lax.pad(x, 0.0, ((1, 0, 0), *((0, 0, 0),) * 3)),
        "it pads the batch",
    ),
    "joined along the batch": (lambda x: jnp.concatenate([x, x]), "it joins along the batch"),
    "a batch that is divided": (lambda x: jnp.split(x, 2)[0], "it divides the batch"),
    "a batch that is mixed": (lambda x: x.reshape(8, 5, 3), "it mixes the batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_the_batch_needs_a_fixed_one(name: str):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"onnx: {message}.*batch=1"):
        translated(function, open_batch=True)
    found, x, _ = translated(function, open_batch=False)
    np.testing.assert_array_equal(found, jax.jit(function)(x))


def test_pads_are_all_before_then_all_after():
    assert _sides([(1, 2), (3, 4), (5, 6)]) == [1, 3, 5, 2, 4, 6]
