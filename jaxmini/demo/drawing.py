"""Drawing: how a drawn figure must stand in the picture to look like those the network knows."""

import dataclasses

import numpy as np

INK = 64  # levels that ink differs from the ground by, at least


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Where figures stand in grey pictures.

    Attributes:
        ground: level of the ground, 0 or 255; ink is the other.
        extent: longer side of a figure's box, as a share of the picture's shorter side.
        center: middle of that box, (down, right), each 0..1 of the picture.
    """

    ground: int
    extent: float
    center: tuple[float, float]


# Light on dark, with a margin: what handwriting data sets share.
USUAL = Drawing(0, 0.75, (0.5, 0.5))


def drawing(images: np.ndarray) -> Drawing:
    """Where figures stand in these pictures: medians over those that have ink.

    Args:
        images: uint8 [N, H, W, 1]; none give ``USUAL``.
    """
    if not len(images):
        return USUAL
    levels = images[..., 0].astype(np.int32)
    edges = np.concatenate([levels[:, 0], levels[:, -1], levels[:, :, 0], levels[:, :, -1]], 1)
    ground = 255 if np.median(edges) > 127 else 0
    boxes = [box for box in (_box(abs(each - ground) >= INK) for each in levels) if box]
    if not boxes:
        return dataclasses.replace(USUAL, ground=ground)
    top, bottom, left, right = np.array(boxes, np.float64).T
    height, width = levels.shape[1:]
    longer = np.maximum(bottom - top, right - left)
    extent = min(1.0, float(np.median(longer)) / min(height, width))
    down, right_of = np.median(top + bottom) / 2 / height, np.median(left + right) / 2 / width
    return Drawing(ground, extent, (float(down), float(right_of)))


def _box(ink: np.ndarray) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) around what is set, ends excluded; None around nothing."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        return None
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
