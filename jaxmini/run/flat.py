"""Flat: the leaves of a state as host arrays by path, packed into one array a dtype, and back.

What Orbax takes to write a tree grows with its number of leaves more than with their bytes.
"""

import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxmini.state import Array, PyTree


def leaves(tree: PyTree) -> dict[str, Any]:
    """The tree's arrays (or ShapeDtypeStructs) by path, in the tree's order.

    Raises:
        TypeError: a leaf is not an array, or is of a dtype that jax would narrow.
    """
    found = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in found}
    for path, leaf in named.items():
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise TypeError(f"state{path} is {leaf!r}, not an array: try jnp.asarray({leaf!r})")
        if not _is_key(leaf) and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            raise TypeError(
                f"state{path} is {leaf.dtype}, which jax would narrow: cast it, "
                "or enable jax_enable_x64"
            )
    return named


def kind(leaf: Any) -> str:
    """Dtype and shape, as jax prints them: ``float32[3,4]``, ``key<fry>[]``."""
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def key_impl(leaf: Any) -> str | None:
    """The name of a typed key's generator (``threefry2x32``), None for any other array."""
    return str(jax.random.key_impl(leaf)) if _is_key(leaf) else None


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and bytes."""
    return hashlib.sha256(kind(array).encode() + array.tobytes()).hexdigest()


def to_host(tree: PyTree) -> dict[str, np.ndarray]:
    """The whole value of every leaf on the host, by path; typed keys as their data.

    Raises:
        ValueError: the tree holds no values at all.
    """
    whole = {path: _whole(leaf) for path, leaf in leaves(tree).items()}
    if not any(math.prod(leaf.shape) for leaf in whole.values()):
        raise ValueError("the state holds no values: give a tree with at least one array")
    return {
        path: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for path, leaf in whole.items()
    }


def pack(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Dtype -> the arrays of that dtype one after the other, [total size]."""
    parts: dict[str, list[np.ndarray]] = {}
    for array in arrays.values():
        if array.size:
            parts.setdefault(array.dtype.name, []).append(array.ravel())
    return {dtype: np.concatenate(flats) for dtype, flats in parts.items()}


def unpack(packed: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that ``pack`` joined in the order of ``like``, each in memory of its own.

    Raises:
        KeyError: there is nothing of a leaf's dtype.
        ValueError: there is less of it than the leaves need.
    """
    arrays, used = {}, dict.fromkeys(packed, 0)
    for path, stored in ((path, _stored(leaf)) for path, leaf in like.items()):
        name, size = stored.dtype.name, math.prod(stored.shape)
        if size == 0:
            arrays[path] = np.empty(stored.shape, stored.dtype)
            continue
        arrays[path] = packed[name][used[name] :][:size].reshape(stored.shape).copy()
        used[name] += size
    return arrays


def place(array: np.ndarray, like: Any, impl: str | None) -> Array:
    """The array on the devices of ``like``, uncommitted where ``like`` is or has no sharding.

    Args:
        array: a leaf as ``to_host`` gave it.
        like: the array or ShapeDtypeStruct in whose stead it comes.
        impl: the leaf's ``key_impl``.
    """
    committed = not isinstance(like, jax.Array) or like.committed
    sharding = getattr(like, "sharding", None) if committed else None
    if impl is not None:
        # device_put takes no typed keys onto devices of several processes; a compiled program does.
        return jax.jit(functools.partial(_wrap, impl), out_shardings=sharding)(array)
    return jnp.asarray(array) if sharding is None else jax.device_put(array, sharding)


def _wrap(impl: str, data: Array) -> Array:
    return jax.random.wrap_key_data(data, impl=impl)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(leaf: Any) -> jax.ShapeDtypeStruct:
    """The leaf's kind on the host: a typed key's is that of its data."""
    like = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return jax.eval_shape(jax.random.key_data, like) if _is_key(leaf) else like


def _whole(leaf: Any) -> Any:
    """The leaf as this process can read it, though its shards may lie with several."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return multihost_utils.process_allgather(leaf, tiled=True)
