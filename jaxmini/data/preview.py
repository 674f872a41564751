"""Preview: a contact sheet of pictures beside views of them, to see what a network is shown.

A view that is too strong, or does nothing, is seen here in a second and in no metric.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxmini.data.dataset import UNLABELLED, Split
from jaxmini.data.order import permutation
from jaxmini.data.views import View

TILE = 96  # pixels: about the side of one picture on the sheet
GAP = 4
PAPER, INK, QUIET = (250, 250, 248), (32, 32, 32), (120, 120, 120)


def contact_sheet(
    split: Split,
    view: View,
    *,
    labels: tuple[str, ...] = (),
    rows: int = 8,
    columns: int = 8,
    seed: int = 0,
) -> Image.Image:
    """Pictures of a split in the first column, ``columns`` views of each beside it.

    Column k is the view that a run whose key is ``jax.random.key(seed)`` shows in epoch k (view
    index 0). The pictures are drawn at random, the classes in turn.

    Args:
        split: at least one picture.
        view: of one example.
        labels: class names to write beside the pictures.
        rows: pictures, as far as the split has them.
        columns: views of each.
        seed: of the pictures and of the views.
    """
    if not len(split):
        raise ValueError("contact_sheet: the split holds no pictures")
    if rows < 1 or columns < 1:
        raise ValueError(f"contact_sheet: rows={rows}, columns={columns}, expected at least 1 each")
    ids = _choose(split, rows, seed)
    shown = split.take(ids)
    views = _views(shown, view, ids, columns, seed)
    captions = [_caption(label, labels) for label in shown.label]
    return _draw(shown.image, views, captions)


def write_contact_sheet(path: str | Path, sheet: Image.Image) -> Path:
    """Write a sheet as a file, by its suffix PNG or JPEG; folders are made. The path written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _choose(split: Split, rows: int, seed: int) -> np.ndarray:
    """Random ids, one of each class before a second of any."""
    order = permutation(len(split), seed, 0)
    drawn = split.label[order]
    turn = np.empty(len(order), np.int64)
    for label in np.unique(drawn):
        own = drawn == label
        turn[own] = np.arange(np.sum(own))
    return order[np.lexsort((drawn, turn))][:rows]


def _views(shown: Split, view: View, ids: np.ndarray, columns: int, seed: int) -> np.ndarray:
    """uint8 [rows, columns, H', W', C]."""
    stream = jax.random.fold_in(jax.random.key(seed), 0)

    def one(image: jax.Array, example: jax.Array, epoch: jax.Array) -> jax.Array:
        return view(jax.random.fold_in(jax.random.fold_in(stream, epoch), example), image)

    over_epochs = jax.vmap(one, in_axes=(None, None, 0))
    over_both = jax.jit(jax.vmap(over_epochs, in_axes=(0, 0, None)))
    pixels = over_both(jnp.float32(shown.image) / 255, jnp.int32(ids), jnp.arange(columns))
    return np.round(255 * np.clip(np.asarray(pixels), 0, 1)).astype(np.uint8)


def _caption(label: int, labels: tuple[str, ...]) -> str:
    if label == UNLABELLED:
        return ""
    return labels[label] if labels else f"class {label}"


def _draw(images: np.ndarray, views: np.ndarray, captions: list[str]) -> Image.Image:
    font = ImageFont.load_default(13)
    margin = max(round(font.getlength(caption)) for caption in captions) + 3 * GAP
    head = 6 * GAP
    originals = [_tile(image) for image in images]
    tiles = [[_tile(image) for image in row] for row in views]
    wide, high = originals[0].size
    across, down = tiles[0][0].size
    step = max(high, down) + GAP
    left = margin + wide + 4 * GAP  # a wider gap sets the originals apart
    size = (left + len(tiles[0]) * (across + GAP) + GAP, head + len(tiles) * step + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((margin, head / 2), "original", QUIET, font, anchor="lm")
    for column in range(len(tiles[0])):
        place = (left + column * (across + GAP), head / 2)
        pen.text(place, f"epoch {column}" if column == 0 else str(column), QUIET, font, anchor="lm")
    for row, caption in enumerate(captions):
        top = head + row * step
        pen.text((margin - 2 * GAP, top + high / 2), caption, INK, font, anchor="rm")
        sheet.paste(originals[row], (margin, top))
        for column, tile in enumerate(tiles[row]):
            sheet.paste(tile, (left + column * (across + GAP), top))
    return sheet


def _tile(image: np.ndarray) -> Image.Image:
    """A picture enlarged by a whole factor, pixels as squares, or reduced to the size of a tile."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).convert("RGB")
    factor = TILE / max(picture.size)
    if factor >= 1:
        whole = round(factor)
        size = (picture.width * whole, picture.height * whole)
        return picture.resize(size, Image.Resampling.NEAREST)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)
