"""Flat: packing loses nothing, whatever the dtypes and shapes, and keeps the tree's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.run import flat

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "int4", "bool", "complex64"]
KINDS = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)), max_size=8
)


@given(KINDS)
def test_packing_is_lossless(kinds):
    noise = np.random.default_rng(0)
    arrays = {
        f"leaf {i}": noise.integers(0, 2, shape).astype(jnp.dtype(dtype))
        for i, (dtype, shape) in enumerate(kinds)
    }
    packed = flat.pack(arrays)
    assert len(packed) <= len({dtype for dtype, _ in kinds})
    assert all(array.ndim == 1 for array in packed.values())
    unpacked = flat.unpack(packed, arrays)
    assert list(unpacked) == list(arrays)
    for name, array in arrays.items():
        assert flat.digest(unpacked[name]) == flat.digest(array)
        assert not np.shares_memory(unpacked[name], packed.get(array.dtype.name, array))


def test_too_little_to_unpack_is_an_error():
    like = {"a": np.zeros([2, 3], np.float32)}
    with pytest.raises(ValueError, match="cannot reshape"):
        flat.unpack({"float32": np.zeros(5, np.float32)}, like)
    with pytest.raises(KeyError, match="float32"):
        flat.unpack({"int32": np.zeros(6, np.int32)}, like)


def test_a_digest_is_of_dtype_shape_and_values():
    zeros = np.zeros([2, 3], np.float32)
    others = [zeros.T, zeros.view(np.int32), zeros.reshape(-1), -zeros]
    assert len({flat.digest(array) for array in (zeros, *others)}) == 5
    assert flat.digest(np.asfortranarray(zeros)) == flat.digest(zeros)


def test_leaves_are_named_by_their_path():
    tree = {"layer": ({"kernel": jnp.zeros([2, 3])}, jax.random.key(0))}
    kinds = {path: flat.kind(leaf) for path, leaf in flat.leaves(tree).items()}
    assert kinds == {"['layer'][0]['kernel']": "float32[2,3]", "['layer'][1]": "key<fry>[]"}
    assert list(map(flat.key_impl, jax.tree.leaves(tree))) == [None, "threefry2x32"]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_keep_their_generator(impl):
    keys = jax.random.split(jax.random.key(7, impl=impl), 3)
    (data,) = flat.to_host([keys]).values()
    back = flat.place(data, keys, flat.key_impl(keys))
    assert back.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.bits(back[1]), jax.random.bits(keys[1]))
