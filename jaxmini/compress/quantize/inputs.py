"""Inputs: what a quantized model is shown, one array of sizes that are known; and batches of them."""

import math
from collections.abc import Iterable, Iterator, Mapping

import jax.export
import numpy as np

from jaxmini.state import Array, PyTree


def check_array(what: str, inputs: PyTree) -> None:
    """See that inputs are one array, or its ShapeDtypeStruct, of sizes that are known.

    The number of examples may be a symbol, as ``jax.export`` has them: no grid depends on it.

    Args:
        what: how errors call them, "calibrate: batch 0".

    Raises:
        TypeError: they are no array.
        ValueError: a size is unknown, or there is no axis of examples.
    """
    shape = getattr(inputs, "shape", None)
    if shape is None or not hasattr(inputs, "dtype"):
        remedy = "wrap what it takes in one array, np.stack(pictures) for one"
        if isinstance(inputs, Mapping) and inputs:
            (*_, name) = sorted(inputs, key=lambda key: key == "image")
            remedy = (
                f"give it what the model takes alone, as batch[{name!r}]; wrap a model of several inputs in "
                "a module that takes one"
            )
        raise TypeError(f"{what} is a {type(inputs).__name__}, expected one array: {remedy}")
    if not shape:
        raise ValueError(f"{what} is a single number, expected an array of examples [B, ...]")
    for position, size in enumerate(shape):
        if not (_is_known(size) or (position == 0 and jax.export.is_symbolic_dim(size))):
            raise ValueError(
                f"{what} has the shape {tuple(shape)}, and size {size} of axis {position} is unknown: "
                "plans and files are of fixed sizes: write a number there"
            )


def batches_of(where: str, batches: Iterable[Array]) -> Iterator[tuple[int, Array]]:
    """The batches that hold something, one after the other, with their numbers.

    Args:
        where: the method, for errors.
        batches: inputs as a model takes them, [B, H, W, C].

    Raises:
        TypeError: a batch is no array.
        ValueError: an array was given for batches, or none of them holds anything.
    """
    if hasattr(batches, "shape"):
        raise ValueError(f"{where}: got one array, expected batches of pictures: write [images]")
    nothing = True
    for number, batch in enumerate(batches):
        check_array(f"{where}: batch {number}", batch)
        if math.prod(batch.shape):
            nothing = False
            yield number, batch
    if nothing:
        raise ValueError(
            f"{where}: there are no pictures to see: give it a few hundred, in batches"
        )


def _is_known(size: object) -> bool:
    return isinstance(size, int | np.integer) and size >= 0
