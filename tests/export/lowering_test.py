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


def test_the_same_function_gives_the_same_bytes():
    """A file's SHA-256 says what network it is: neither the line it was made from, nor where, is in it."""
    spec = jax.ShapeDtypeStruct((1, 4), np.float32)
    first = lowering.portable(lowering.lower(lambda x: jnp.tanh(x) + 1, spec))
    second = lowering.portable(lowering.lower(lambda x: jnp.tanh(x) + 1, spec))
    assert first == second
    assert b"lowering" not in first
