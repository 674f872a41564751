"""Pictures: what a method of post-training quantization is shown, checked once."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np

from jaxmini.compress.quantize.inputs import batches_of
from jaxmini.compress.quantize.transform import is_quantized
from jaxmini.model import Model, Variables
from jaxmini.state import Array

# What post-training quantization is made of: the model, its calibrated variables, batches of pictures.
Method: TypeAlias = Callable[[Model, Variables, Iterable[Array]], Variables]


def checked_batches(where: str, model: Model, batches: Iterable[Array]) -> tuple[Array, ...]:
    """The batches, once they are known to be something to quantize by.

    Args:
        where: the method, for errors.
        model: made by ``quantize``.
        batches: inputs as the model takes them, [B, H, W, C] float32.

    Raises:
        TypeError: a batch is no array.
        ValueError: the model is not quantized, there are no pictures, one is not finite, or an array was
            given for batches.
    """
    if not is_quantized(model):
        raise ValueError(f"{where}: the model is not quantized: give it quantize(model)")
    kept = []
    for number, batch in batches_of(where, batches):
        if not np.all(np.isfinite(batch)):
            raise ValueError(
                f"{where}: the numbers of batch {number} are not finite (NaN or infinity): look at how "
                "its pictures are normalised"
            )
        kept.append(batch)
    return tuple(kept)
