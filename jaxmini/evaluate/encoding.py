"""Encoding: pixels and real numbers as the input of any file takes them, and its answers as real numbers.

All is read off the file's own tensors, so it does not matter who wrote the file.
"""

import numpy as np

from jaxmini.export.flatbuffer import Tensor

# The types of input that say how they take a pixel 0..255; of int16 its mean must be known.
PIXELS = ("float32", "uint8", "int8")


def encoded(images: np.ndarray, dtype: np.dtype, mean: int = 128) -> np.ndarray:
    """uint8 images as an input of that type takes them.

    Args:
        images: of pixels 0..255.
        dtype: of the input; most take the pixel itself, int8 ``pixel - 128``, int16 ``pixel - mean``.
        mean: the pixel that is 0 for an int16 input.
    """
    if dtype in (np.int8, np.int16):
        return (images.astype(np.int16) - np.int16(128 if dtype == np.int8 else mean)).astype(dtype)
    return images.astype(dtype)


def has_grid(tensor: Tensor) -> bool:
    """Whether the tensor's integers lie on one grid of real numbers."""
    return tensor.dtype.kind in "iu" and tensor.scale.size == 1


def quantized(numbers: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The nearest integers of the tensor's grid, ties to even; numbers outside become its ends."""
    steps = np.rint(numbers.astype(np.float64) / np.float64(tensor.scale[0]))
    ends = np.iinfo(tensor.dtype)
    return np.clip(steps + tensor.zero_point[0], ends.min, ends.max).astype(tensor.dtype)


def dequantized(integers: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The numbers that integers of the tensor's grid stand for, float32."""
    steps = integers.astype(np.float32) - tensor.zero_point.astype(np.float32)
    return steps * tensor.scale


def as_input(inputs: np.ndarray, tensor: Tensor, where: str) -> np.ndarray:
    """The inputs of a function as a file's input takes them.

    Args:
        inputs: what has the file's own type is given to it as it is; floats are put onto the grid of an
            input of integers; uint8 pixels become ``pixel - 128`` for int8, the pixel for floats.
        tensor: the file's input.
        where: how errors call the file.

    Raises:
        ValueError: a type that the file's input says nothing of, or numbers that are not finite.
    """
    dtype, kind = tensor.dtype, inputs.dtype.kind
    if kind == "f" and not np.isfinite(inputs).all():
        raise ValueError(f"{where}: the inputs are not all finite (NaN or infinity)")
    if inputs.dtype == dtype or (kind == "f" and dtype.kind == "f"):
        return inputs.astype(dtype)
    if kind == "f" and has_grid(tensor):
        return quantized(inputs, tensor)
    if inputs.dtype == np.uint8 and dtype.name in PIXELS:
        return encoded(inputs, dtype)
    takes = [dtype.name]
    takes += ["real numbers in float32"] if has_grid(tensor) else []
    takes += ["pixels in uint8"] if dtype.name in PIXELS and dtype != np.uint8 else []
    raise ValueError(f"{where}: its input takes {', or '.join(takes)}; got {inputs.dtype}")
