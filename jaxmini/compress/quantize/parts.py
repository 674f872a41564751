"""Parts: kernels of integers cut into such whose sums float32 holds exactly."""

import numpy as np

EXACT = 2**24  # float32 holds every integer up to here
LARGEST_INPUT = 255


def exact_parts(kernel: np.ndarray) -> list[np.ndarray]:
    """Kernels [..., I, O] that add up to ``kernel``, float32.

    Each is small enough that the sums of its products with integers of at most 255 are exact in float32.

    Raises:
        ValueError: a window is too large for that.
    """
    rows, count = np.arange(kernel.shape[-2]), 1
    while True:
        parts = [np.where((rows % count == i)[:, None], kernel, 0) for i in range(count)]
        sums = [np.abs(p.astype(np.int64)).reshape(-1, p.shape[-1]).sum(0).max() for p in parts]
        if max(sums) * LARGEST_INPUT <= EXACT:
            return [part.astype(np.float32) for part in parts]
        if count >= len(rows):
            raise ValueError(
                f"simulate: a window of {kernel.shape[:-2]} is too large for exact sums"
            )
        count *= 2
