"""Lowering: a program that belongs to no machine, and can be read by older readers."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmini.export import lowering


def test_portable_bytes_hold_no_platform_and_can_be_read_back():
    exported = lowering.lower(lambda x: jnp.tanh(x), jax.ShapeDtypeStruct((1, 4), np.float32))
    assert exported.platforms == (lowering.PLATFORM,)
    assert "custom_call" not in str(exported.mlir_module())
    assert lowering.portable(exported)[:4] == b"ML\xefR"
    values = np.linspace(-1, 1, 4, dtype=np.float32)[None]
    np.testing.assert_allclose(exported.call(values), np.tanh(values), rtol=1e-6)


def test_arguments_may_be_trees_and_the_batch_open():
    (batch,) = jax.export.symbolic_shape("b")
    weights = [jax.ShapeDtypeStruct((3, 2), np.float32), jax.ShapeDtypeStruct((2,), np.float32)]
    image = jax.ShapeDtypeStruct((batch, 3), np.float32)
    exported = lowering.lower(lambda w, x: x @ w[0] + w[1][None], weights, image)
    w, x = [np.ones((3, 2), np.float32), np.float32([1, 2])], np.ones((5, 3), np.float32)
    np.testing.assert_allclose(exported.call(w, x), np.tile(np.float32([4, 5]), (5, 1)))


def test_a_program_that_is_handed_on_does_not_say_where_its_code_lies():
    """The same function, traced from two lines, is one program: its SHA-256 says what network it is."""
    spec = jax.ShapeDtypeStruct((1, 4), np.float32)
    traced = lowering.lower(lambda x: jnp.tanh(x) + 1, spec)
    other = lowering.lower(lambda x: jnp.tanh(x) + 1, spec)
    assert b"lowering_test.py" in traced.serialize()
    first, second = (bytes(lowering.anonymous(program).serialize()) for program in (traced, other))
    assert first == second
    assert b".py" not in first
    values = np.linspace(-1, 1, 4, dtype=np.float32)[None]
    again = jax.export.deserialize(bytearray(first))
    np.testing.assert_array_equal(again.call(values), traced.call(values))
