"""The one mapped axis of jaxmini, ``"batch"``: what is global under jit must be made global under pmap.

Under ``jit`` over a mesh every array is global and the functions here do nothing. Under ``pmap`` (or
``shard_map``) with the axis name ``"batch"`` a program sees its own shard, and these functions make the
whole again, with gradients. A caller writes them once and its mathematics is the same in every placement.
"""

from typing import TypeVar

import jax
from jax import lax

AXIS = "batch"

Tree = TypeVar("Tree")


def is_mapped() -> bool:
    """Whether the traced program sees its device's shard only, under pmap or shard_map over ``"batch"``.

    One device alone holds the whole, and sums over it would cost a small step a thirtieth of its time. Only
    a shard_map that checks what varies (``check_vma``) must be told so, by such a sum.
    """
    try:
        devices = lax.axis_size(AXIS)
    except NameError:
        return False
    return devices > 1 or AXIS in jax.typeof(lax.axis_index(AXIS)).manual_axis_type.varying


def mean(tree: Tree) -> Tree:
    """Mean over the devices; the tree itself where nothing is mapped.

    A step takes it of the loss *inside* the differentiated function and of the gradients after: the one
    form that is right under jit, pmap and shard_map with and without ``check_vma``.
    """
    return lax.pmean(tree, AXIS) if is_mapped() else tree


def maximum(tree: Tree) -> Tree:
    """Elementwise maximum over the devices. It has no derivative: stop the gradient first."""
    return lax.pmax(tree, AXIS) if is_mapped() else tree


def minimum(tree: Tree) -> Tree:
    """Elementwise minimum over the devices. It has no derivative: stop the gradient first."""
    return lax.pmin(tree, AXIS) if is_mapped() else tree


def gather(tree: Tree) -> Tree:
    """The whole batch from every device's rows, in device order, with gradients back to each row's owner."""
    if not is_mapped():
        return tree
    return jax.tree.map(lambda rows: lax.all_gather(rows, AXIS, tiled=True), tree)
